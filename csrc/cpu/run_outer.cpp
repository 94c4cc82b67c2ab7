// Drives weight grad of dense and grouped convolutions (wgrad_outer.h).
//
// Output rows (n, p) are cut into strips of a few hundred pixels at most, and the strips, in order,
// into plan.splits chunks by shape alone. A work item is one chunk, one group, one block of lanes
// and one block of rows of the result; it owns its part of one copy of the weight and walks its
// strips in blocks. At the end the copies are added in order. So the sums are the same for any
// number of threads, and each is a sum of sums of short sums.
//
// Lanes are input channels and rows output channels. With plan.swapped (1x1) they change places.
#include <utility>
#include <vector>

#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"
#include "scratch.h"

namespace convext {
namespace {

std::int64_t least(std::int64_t a, std::int64_t b) { return a < b ? a : b; }

template <class T>
class OuterPass {
 public:
  OuterPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.kernel->isa)),
        p_(plan.problem),
        mr_(plan.kernel->mr),
        nr_(plan.kernel->nr),
        splits_(plan.splits),
        x_(t.input),
        grad_(t.output),
        weight_(t.weight),
        merged_(plan.merged_columns),
        block_pixels_(plan.pixel_block) {
    if (plan.swapped) {
      std::swap(x_, grad_);
      std::swap(p_.C, p_.K);
      std::swap(weight_.stride[0], weight_.stride[1]);
    }
    flatten();
    groups_ = p_.groups;
    channels_ = p_.channels_per_group();
    outputs_ = p_.outputs_per_group();
    // Few channels: one kernel row's taps and channels, adjacent in a packed row, are the lanes.
    taps_ = merged_ ? p_.R : p_.taps();
    lanes_ = merged_ ? p_.S * channels_ : channels_;
    lane_blocks_ = ceil_div(lanes_, nr_);
    lane_chunk_ = merged_ ? lanes_ : plan.channel_block;
    lane_chunks_ = ceil_div(lanes_, lane_chunk_);
    row_chunk_ = plan.output_block;
    row_chunks_ = ceil_div(outputs_, row_chunk_);
    const bool padded = p_.pad_top | p_.pad_bottom | p_.pad_left | p_.pad_right;
    x_in_place_ = channels_in_place<T>(x_, channels_) && channels_ % kernels_.lanes == 0 &&
                  !merged_ && (!padded || p_.padding_mode == PaddingMode::kZeros) &&
                  plan.read_in_place;
    choose_grad(plan.read_in_place);
    if (!flat_) {
      rows_map_ = forward_map_h(p_);
      columns_map_ = forward_map_w(p_);
    }
    make_strips();
    sum_in_place_ = splits_ == 1 && channels_in_place<T>(weight_, channels_) &&
                    lanes_ % kernels_.lanes == 0 && !merged_;
  }

  void run(const Threads& threads) {
    if (!sum_in_place_) sums_ = scratch<T>(Slot::kSums, splits_ * groups_ * group_elements());
    const std::int64_t parts = groups_ * lane_chunks_ * row_chunks_;
    threads.run(splits_ * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t split = item / parts, part = item % parts;
        worker.item(split, part / row_chunks_ / lane_chunks_, part / row_chunks_ % lane_chunks_,
                    part % row_chunks_);
      }
    });
    if (!sum_in_place_) reduce(threads);
  }

 private:
  // How the kernel finds the gradient.
  enum class Grad {
    kPlanes,        // in the tensor, a channel's pixels adjacent
    kPixels,        // in the tensor, a pixel's channels adjacent
    kPackedTiles,   // packed [tile of mr channels][pixel][mr]
    kPackedPlanes,  // packed [channel][pixel]
  };

  void choose_grad(bool read_in_place) {
    const bool compute = grad_.dtype == compute_dtype<T>();
    if (grad_.stride[1] == 1 || outputs_ == 1) {
      how_ = compute && read_in_place ? Grad::kPixels : Grad::kPackedTiles;
    } else {
      how_ = compute && grad_.stride[3] == 1 ? Grad::kPlanes : Grad::kPackedPlanes;
    }
  }

  // 1x1: an image, or the whole batch, is one long row where its memory is.
  void flatten() {
    if (p_.taps() > 1 || p_.stride_h > 1 || p_.stride_w > 1 || p_.pad_top || p_.pad_bottom ||
        p_.pad_left || p_.pad_right) {
      return;
    }
    const auto long_rows = [&](const TensorView& v) {
      return p_.H == 1 || v.stride[2] == p_.W * v.stride[3];
    };
    if (p_.W == 1) x_.stride[3] = x_.stride[2], grad_.stride[3] = grad_.stride[2];
    if (!long_rows(x_) || !long_rows(grad_)) return;
    flat_ = true;
    std::int64_t pixels = p_.H * p_.W;
    if (pixels == 1) {
      x_.stride[3] = x_.stride[0];
      grad_.stride[3] = grad_.stride[0];
    }
    if (p_.N == 1 ||
        (x_.stride[0] == pixels * x_.stride[3] && grad_.stride[0] == pixels * grad_.stride[3])) {
      pixels *= p_.N;
      p_.N = 1;
    }
    p_.H = p_.P = 1;
    p_.W = p_.Q = pixels;
  }

  // ---- strips: pieces of output rows -------------------------------------------------------------

  struct Strip {
    std::int64_t q, pixels;       // of the output row
    std::int64_t packed_columns;  // of the input row
    std::vector<ColumnRun> runs;
  };

  // Where a packed row keeps the source column of (q, s). Overlapping taps share the padded row;
  // where taps would leave most of it unused (1x1 with a stride, wide dilation), each has a strip.
  void make_strips() {
    const bool whole = p_.Q * 2 <= block_pixels_ * 3;
    strips_a_row_ = whole ? 1 : ceil_div(p_.Q, block_pixels_);
    strip_pixels_ = ceil_div(p_.Q, strips_a_row_);
    strips_a_row_ = ceil_div(p_.Q, strip_pixels_);
    const std::int64_t reach = (p_.S - 1) * p_.dilation_w + 1;
    shared_ = merged_ || (strip_pixels_ - 1) * p_.stride_w + reach <= strip_pixels_ * p_.S;
    pixel_step_ = shared_ ? p_.stride_w : 1;
    tap_step_ = shared_ ? p_.dilation_w : strip_pixels_;
    most_columns_ = shared_ ? (strip_pixels_ - 1) * p_.stride_w + reach : strip_pixels_ * p_.S;
    if (flat_ || x_in_place_) return;
    for (std::int64_t q0 = 0; q0 < p_.Q; q0 += strip_pixels_) {
      Strip strip;
      strip.q = q0;
      strip.pixels = p_.Q - q0 < strip_pixels_ ? p_.Q - q0 : strip_pixels_;
      strip.packed_columns = most_columns_ - (strip_pixels_ - strip.pixels) * pixel_step_;
      std::vector<std::int64_t> sources(strip.packed_columns, -1);
      for (std::int64_t i = 0; i < strip.pixels; ++i) {
        for (std::int64_t s = 0; s < p_.S; ++s) {
          sources[i * pixel_step_ + s * tap_step_] = columns_map_.source(q0 + i, s);
        }
      }
      strip.runs = column_runs(sources);
      strips_.push_back(std::move(strip));
    }
  }

  std::int64_t strip_count() const { return p_.N * p_.P * strips_a_row_; }
  std::int64_t pixels_of(std::int64_t strip) const {
    const std::int64_t q = strip % strips_a_row_ * strip_pixels_;
    return p_.Q - q < strip_pixels_ ? p_.Q - q : strip_pixels_;
  }

  // ---- sums: [split][group][tile of output channels][lane block][tap][mr][nr] --------------------

  std::int64_t group_elements() const {
    return ceil_div(outputs_, mr_) * lane_blocks_ * taps_ * mr_ * nr_;
  }
  std::int64_t sum_offset(std::int64_t k, std::int64_t lane_block, std::int64_t tap) const {
    return (((k / mr_ * lane_blocks_ + lane_block) * taps_ + tap) * mr_ + k % mr_) * nr_;
  }

  // grad_weight = the copies of its sums, added in order.
  void reduce(const Threads& threads) {
    // Waking threads costs as much as adding this many.
    constexpr std::int64_t kWorthThreads = 1 << 15;
    // Where neighbouring rows are adjacent in the weight, several are written at once.
    constexpr std::int64_t kRows = 48;
    const bool across = groups_ == 1 && taps_ == 1 && !merged_ && weight_.stride[0] == 1;
    const std::int64_t rows = across ? kRows : 1;
    const auto body = [&](std::int64_t begin, std::int64_t end) {
      reduce_rows(begin * rows, least(end * rows, p_.K), rows);
    };
    const std::int64_t items = ceil_div(p_.K, rows);
    if (splits_ * groups_ * group_elements() < kWorthThreads) {
      body(0, items);
    } else {
      threads.run(items, body);
    }
  }

  void reduce_rows(std::int64_t begin, std::int64_t end, std::int64_t at_once) {
    const bool taps_adjacent = weight_.stride[2] == p_.S * weight_.stride[3];
    const std::int64_t row_elements = p_.taps() * channels_;
    std::vector<T> total(at_once * row_elements);
    for (std::int64_t k = begin; k < end; k += at_once) {
      const std::int64_t rows = least(at_once, end - k);
      for (std::int64_t i = 0; i < rows; ++i) add_copies(k + i, total.data() + i * row_elements);
      if (at_once > 1) {
        kernels_.unpack(
            total.data(), row_elements, rows, channels_,
            {element(weight_, k, 0, 0, 0), weight_.dtype, weight_.stride[0], weight_.stride[1]});
      } else if (taps_adjacent) {
        kernels_.unpack(
            total.data(), channels_, p_.taps(), channels_,
            {element(weight_, k, 0, 0, 0), weight_.dtype, weight_.stride[3], weight_.stride[1]});
      } else {
        for (std::int64_t r = 0; r < p_.R; ++r) {
          kernels_.unpack(
              total.data() + r * p_.S * channels_, channels_, p_.S, channels_,
              {element(weight_, k, 0, r, 0), weight_.dtype, weight_.stride[3], weight_.stride[1]});
        }
      }
    }
  }

  // total[tap][channel] of output channel k; merged lanes already are (s, channel).
  void add_copies(std::int64_t k, T* total) const {
    const std::int64_t copy = groups_ * group_elements();
    const std::int64_t g = k / outputs_, row = k % outputs_;
    for (std::int64_t block = 0; block < lane_blocks_; ++block) {
      const std::int64_t count = least(lanes_ - block * nr_, nr_);
      for (std::int64_t tap = 0; tap < taps_; ++tap) {
        const T* sum = sums_ + g * group_elements() + sum_offset(row, block, tap);
        T* out = total + tap * lanes_ + block * nr_;
        for (std::int64_t i = 0; i < count; ++i) out[i] = sum[i];
        for (std::int64_t split = 1; split < splits_; ++split) {
          const T* next = sum + split * copy;
          for (std::int64_t i = 0; i < count; ++i) out[i] += next[i];
        }
      }
    }
  }

  class Worker {
   public:
    explicit Worker(OuterPass& pass) : pass_(pass), p_(pass.p_) {
      most_strips_ = pass.block_pixels_ / pass.strip_pixels_;
      if (most_strips_ < 1) most_strips_ = 1;
      const std::int64_t most_pixels = most_strips_ * pass.strip_pixels_;
      if (pass.x_in_place_) {
        pixel_stride_ = p_.stride_w * pass.x_.stride[3];
      } else {
        most_slots_ = most_strips_ * p_.R;
        // A packed row: [column][nr], or [column][channel] with room to read a last vector.
        const std::int64_t ld = pass.merged_ ? pass.channels_ : pass.nr_;
        slot_elements_ = pass.most_columns_ * ld;
        const std::int64_t blocks =
            pass.merged_ ? 1 : ceil_div(least(pass.lane_chunk_, pass.lanes_), pass.nr_);
        const std::int64_t elements = blocks * most_slots_ * slot_elements_ + pass.nr_;
        packed_ = scratch<T>(Slot::kRows, elements);
        if (pass.merged_) {
          for (std::int64_t i = 0; i < elements; ++i) packed_[i] = 0;
        }
        pixel_stride_ = pass.pixel_step_ * ld;
        tap_stride_ = pass.tap_step_ * ld;
        slot_of_.resize(most_slots_);
        if (p_.R > 1) slot_of_row_.assign(p_.H * pass.strips_a_row_, -1);
      }
      const std::int64_t row_chunk = least(pass.row_chunk_, pass.outputs_);
      // A vector more than pixels, for the surplus of whole vectors and so that rows do not lie a
      // power of two apart.
      if (pass.how_ == Grad::kPackedTiles) {
        grad_ld_ = most_pixels * pass.mr_ + 2 * pass.kernels_.lanes;
        grad_ = scratch<T>(Slot::kGrad, ceil_div(row_chunk, pass.mr_) * grad_ld_);
      } else if (pass.how_ == Grad::kPackedPlanes) {
        grad_ld_ = most_pixels + pass.kernels_.lanes;
        grad_ = scratch<T>(Slot::kGrad, row_chunk * grad_ld_);
      }
    }

    void item(std::int64_t split, std::int64_t group, std::int64_t lane_chunk,
              std::int64_t row_chunk) {
      group_ = group;
      lane0_ = lane_chunk * pass_.lane_chunk_;
      lane_count_ = least(pass_.lane_chunk_, pass_.lanes_ - lane0_);
      row0_ = row_chunk * pass_.row_chunk_;
      row_count_ = least(pass_.row_chunk_, pass_.outputs_ - row0_);
      sums_ = pass_.sums_ + (split * pass_.groups_ + group) * pass_.group_elements();
      const std::int64_t strips = pass_.strip_count();
      const std::int64_t end = strips * (split + 1) / pass_.splits_;
      const std::int64_t begin = strips * split / pass_.splits_;
      // Blocks of equal length, near enough.
      const std::int64_t blocks = ceil_div(end - begin, most_strips_);
      for (std::int64_t b = 0; b < blocks; ++b) {
        const std::int64_t first = begin + (end - begin) * b / blocks;
        const std::int64_t last = begin + (end - begin) * (b + 1) / blocks;
        first_block_ = b == 0;
        look_ahead(last, begin + (end - begin) * (b + 2 < blocks ? b + 2 : blocks) / blocks - last);
        block(first, last - first);
      }
    }

   private:
    struct Place {
      std::int64_t n, p, strip, q, pixels;
    };
    Place place(std::int64_t strip) const {
      const std::int64_t row = strip / pass_.strips_a_row_, i = strip % pass_.strips_a_row_;
      return {row / p_.P, row % p_.P, i, i * pass_.strip_pixels_, pass_.pixels_of(strip)};
    }

    void block(std::int64_t first_strip, std::int64_t count) {
      places_.clear();
      for (std::int64_t j = 0; j < count; ++j) places_.push_back(place(first_strip + j));
      if (!pass_.x_in_place_) pack_input();
      prepare_grad();
      multiply();
    }

    // ---- what the next block will read, prefetched while this one multiplies -----------------------

    struct Ahead {
      const char* data;
      std::int64_t bytes;
    };

    void look_ahead(std::int64_t first_strip, std::int64_t count) {
      ahead_.clear();
      next_ahead_ = 0;
      for (std::int64_t j = 0; j < count; ++j) {
        const Place at = place(first_strip + j);
        add_ahead(pass_.grad_, at, group_ * pass_.outputs_ + row0_, row_count_);
        if (pass_.flat_) add_ahead(pass_.x_, at, group_ * pass_.channels_ + lane0_, lane_count_);
      }
    }

    // Pixels of adjacent channels, if most of what lies between them is wanted.
    void add_ahead(const TensorView& view, const Place& at, std::int64_t channel,
                   std::int64_t channels) {
      if (view.stride[1] != 1 || view.stride[3] > 2 * channels) return;
      const auto* data = static_cast<const char*>(element(view, at.n, channel, at.p, at.q));
      ahead_.push_back({data, at.pixels * view.stride[3] * bytes_of(view.dtype)});
    }

    // Hands the next call, which lasts `pixels`, its share.
    void prefetch(std::int64_t pixels, OuterTile<T>* tile) {
      constexpr std::int64_t kLine = 64;
      tile->prefetch_step = 0;
      if (next_ahead_ == ahead_.size()) return;
      Ahead& next = ahead_[next_ahead_];
      const std::int64_t bytes = least(next.bytes, pixels * kLine);
      tile->prefetch = next.data;
      tile->prefetch_step = ceil_div(bytes, pixels);
      next.data += bytes;
      next.bytes -= bytes;
      if (next.bytes == 0) ++next_ahead_;
    }

    // ---- input -----------------------------------------------------------------------------------

    // Packs each piece of an input row that the block reads once: [lane block][slot][column][lane].
    void pack_input() {
      std::int64_t slots = 0, image = -1;
      for (std::size_t j = 0; j < places_.size(); ++j) {
        const Place& at = places_[j];
        if (p_.R == 1) {
          const std::int64_t h = pass_.flat_ ? 0 : pass_.rows_map_.source(at.p, 0);
          slot_of_[j] = h < 0 ? -1 : slots++;
          if (h >= 0) pack_input_row(at, h, slot_of_[j]);
          continue;
        }
        if (at.n != image) {
          forget_rows();
          image = at.n;
        }
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t h = pass_.rows_map_.source(at.p, r);
          std::int64_t slot = -1;
          if (h >= 0) {
            std::int64_t& known = slot_of_row_[h * pass_.strips_a_row_ + at.strip];
            if (known < 0) {
              known = slots++;
              seen_rows_.push_back(h * pass_.strips_a_row_ + at.strip);
              pack_input_row(at, h, known);
            }
            slot = known;
          }
          slot_of_[j * p_.R + r] = slot;
        }
      }
      forget_rows();
    }

    void forget_rows() {
      for (std::int64_t row : seen_rows_) slot_of_row_[row] = -1;
      seen_rows_.clear();
    }

    void pack_input_row(const Place& at, std::int64_t h, std::int64_t slot) {
      if (pass_.flat_) {
        const TensorView& x = pass_.x_;
        pass_.kernels_.pack({element(x, at.n, group_ * pass_.channels_ + lane0_, 0, at.q), x.dtype,
                             x.stride[3], x.stride[1]},
                            at.pixels, lane_count_, pass_.nr_, packed_at(0, slot), pass_.nr_,
                            most_slots_ * slot_elements_);
        return;
      }
      const std::vector<ColumnRun>& runs = pass_.strips_[at.strip].runs;
      if (pass_.merged_) {
        pack_row(pass_.kernels_, pass_.x_, at.n, h, 0, pass_.channels_, pass_.channels_, runs,
                 packed_at(0, slot), 0);
      } else {
        pack_row(pass_.kernels_, pass_.x_, at.n, h, group_ * pass_.channels_ + lane0_, lane_count_,
                 pass_.nr_, runs, packed_at(0, slot), most_slots_ * slot_elements_);
      }
    }

    T* packed_at(std::int64_t lane_block, std::int64_t slot) {
      if (pass_.merged_) return packed_ + slot * slot_elements_ + lane_block * pass_.nr_;
      return packed_ + (lane_block * most_slots_ + slot) * slot_elements_;
    }

    // ---- gradient --------------------------------------------------------------------------------

    void prepare_grad() {
      const TensorView& g = pass_.grad_;
      const std::int64_t k0 = group_ * pass_.outputs_ + row0_;
      const bool tiles = pass_.how_ == Grad::kPackedTiles;
      const bool packed = tiles || pass_.how_ == Grad::kPackedPlanes;
      grad_rows_.clear();
      std::int64_t pixels = 0;
      for (const Place& at : places_) {
        grad_rows_.push_back(packed ? grad_ + pixels * (tiles ? pass_.mr_ : 1)
                                    : static_cast<const T*>(element(g, at.n, k0, at.p, at.q)));
        pixels += at.pixels;
      }
      if (!packed) return;
      pixels = 0;
      for (std::size_t j = 0; j < places_.size();) {
        // Strips that follow each other in memory are packed as one.
        const Place& at = places_[j];
        std::int64_t count = 0;
        const bool rows_follow = g.stride[2] == p_.Q * g.stride[3];
        do {
          count += places_[j++].pixels;
        } while (j < places_.size() && places_[j].n == at.n && rows_follow);
        void* source = element(g, at.n, k0, at.p, at.q);
        if (tiles) {
          pass_.kernels_.pack_outer_rows({source, g.dtype, g.stride[3], 1}, count, row_count_,
                                         grad_ + pixels * pass_.mr_, grad_ld_);
        } else {
          pass_.kernels_.pack({source, g.dtype, g.stride[1], g.stride[3]}, row_count_, count, count,
                              grad_ + pixels, grad_ld_, 0);
        }
        pixels += count;
      }
    }

    // ---- multiplication --------------------------------------------------------------------------

    void multiply() {
      OuterTile<T> tile;
      tile.x_pixel_stride = pixel_stride_;
      tile.add = !first_block_;
      tile.prefetch = reinterpret_cast<const char*>(pass_.grad_.data);
      tile.prefetch_step = 0;
      const int vector = pass_.kernels_.lanes;
      const std::int64_t lane_blocks = ceil_div(lane_count_, pass_.nr_);
      for (std::int64_t b = 0; b < lane_blocks; ++b) {
        const std::int64_t lanes = least(lane_count_ - b * pass_.nr_, pass_.nr_);
        const int vectors = static_cast<int>(ceil_div(lanes, vector));
        for (std::int64_t tap = 0; tap < pass_.taps_; ++tap) {
          const std::int64_t r = pass_.merged_ ? tap : tap / p_.S;
          const std::int64_t s = pass_.merged_ ? 0 : tap % p_.S;
          if (pass_.x_in_place_) {
            find_runs_in_place(b, r, s);
          } else {
            find_runs(b, r, s);
          }
          tile.runs = runs_.data();
          tile.run_count = static_cast<std::int64_t>(runs_.size());
          multiply_rows(b, tap, vectors, &tile);
        }
      }
    }

    void multiply_rows(std::int64_t b, std::int64_t tap, int vectors, OuterTile<T>* tile) {
      const TensorView& g = pass_.grad_;
      const bool planes = pass_.how_ == Grad::kPlanes || pass_.how_ == Grad::kPackedPlanes;
      const auto kernel = planes ? pass_.kernels_.outer_planes : pass_.kernels_.outer_pixels;
      std::int64_t tile_step = 0;
      switch (pass_.how_) {
        case Grad::kPlanes:
          tile->grad_stride = g.stride[1];
          tile_step = pass_.mr_ * g.stride[1];
          break;
        case Grad::kPixels:
          tile->grad_stride = g.stride[3];
          tile_step = pass_.mr_;
          break;
        case Grad::kPackedTiles:
          tile->grad_stride = pass_.mr_;
          tile_step = grad_ld_;
          break;
        case Grad::kPackedPlanes:
          tile->grad_stride = grad_ld_;
          tile_step = pass_.mr_ * grad_ld_;
          break;
      }
      std::int64_t pixels = 0;
      for (const PixelRun<T>& run : runs_) pixels += run.pixels;
      tile->grad_offset = 0;
      for (std::int64_t k = 0; k < row_count_; k += pass_.mr_, tile->grad_offset += tile_step) {
        place_sum(b, tap, row0_ + k, tile);
        if (pixels > 0) prefetch(pixels, tile);
        kernel(*tile, static_cast<int>(least(row_count_ - k, pass_.mr_)), vectors);
      }
    }

    void add_run(const T* grad, std::int64_t grad_step, const T* x, std::int64_t pixels) {
      if (!runs_.empty()) {
        PixelRun<T>& last = runs_.back();
        if (last.grad + last.pixels * grad_step == grad &&
            last.x + last.pixels * pixel_stride_ == x) {
          last.pixels += pixels;
          return;
        }
      }
      runs_.push_back({grad, x, pixels});
    }

    std::int64_t grad_pixel_step() const {
      return pass_.how_ == Grad::kPixels        ? pass_.grad_.stride[3]
             : pass_.how_ == Grad::kPackedTiles ? pass_.mr_
                                                : 1;
    }

    // The block's pixels for one tap, as runs that are evenly spaced in both operands. Rows whose
    // source lies in the padding are left out.
    void find_runs(std::int64_t lane_block, std::int64_t r, std::int64_t s) {
      const std::int64_t step = grad_pixel_step();
      runs_.clear();
      for (std::size_t j = 0; j < places_.size(); ++j) {
        const std::int64_t slot = slot_of_[j * p_.R + r];
        if (slot < 0) continue;
        add_run(grad_rows_[j], step, packed_at(lane_block, slot) + s * tap_stride_,
                places_[j].pixels);
      }
    }

    // The same in the tensor itself: pixels whose source lies in the padding are left out too.
    void find_runs_in_place(std::int64_t lane_block, std::int64_t r, std::int64_t s) {
      const std::int64_t step = grad_pixel_step();
      const std::int64_t channel = group_ * pass_.channels_ + lane0_ + lane_block * pass_.nr_;
      const std::int64_t shift = p_.pad_left - s * p_.dilation_w;  // of w = q * stride_w - shift
      runs_.clear();
      for (std::size_t j = 0; j < places_.size(); ++j) {
        const Place& at = places_[j];
        const std::int64_t h = pass_.flat_ ? 0 : pass_.rows_map_.source(at.p, r);
        if (h < 0) continue;
        std::int64_t first = shift > 0 ? ceil_div(shift, p_.stride_w) : 0;
        if (first < at.q) first = at.q;
        const std::int64_t beyond = p_.W + shift;  // q * stride_w stays below
        std::int64_t last = beyond > 0 ? ceil_div(beyond, p_.stride_w) : 0;
        if (last > at.q + at.pixels) last = at.q + at.pixels;
        if (first >= last) continue;
        add_run(
            grad_rows_[j] + (first - at.q) * step, step,
            static_cast<const T*>(element(pass_.x_, at.n, channel, h, first * p_.stride_w - shift)),
            last - first);
      }
    }

    void place_sum(std::int64_t lane_block, std::int64_t tap, std::int64_t k, OuterTile<T>* tile) {
      if (pass_.sum_in_place_) {
        const TensorView& w = pass_.weight_;
        tile->sum =
            static_cast<T*>(element(w, group_ * pass_.outputs_ + k, lane0_ + lane_block * pass_.nr_,
                                    tap / p_.S, tap % p_.S));
        tile->sum_stride = w.stride[0];
      } else {
        tile->sum = sums_ + pass_.sum_offset(k, lane0_ / pass_.nr_ + lane_block, tap);
        tile->sum_stride = pass_.nr_;
      }
    }

    OuterPass& pass_;
    const ConvProblem& p_;
    std::int64_t most_strips_ = 0, most_slots_ = 0, slot_elements_ = 0, grad_ld_ = 0;
    std::int64_t pixel_stride_ = 0, tap_stride_ = 0;  // of input rows
    T* packed_ = nullptr;
    T* grad_ = nullptr;
    T* sums_ = nullptr;
    std::int64_t group_ = 0, lane0_ = 0, lane_count_ = 0, row0_ = 0, row_count_ = 0;
    bool first_block_ = true;
    std::vector<Place> places_;              // the block's strips
    std::vector<std::int64_t> slot_of_;      // [strip of the block][r]: packed slot, or -1
    std::vector<std::int64_t> slot_of_row_;  // of the current image, [h][strip]
    std::vector<std::int64_t> seen_rows_;
    std::vector<const T*> grad_rows_;  // [strip of the block]
    std::vector<PixelRun<T>> runs_;
    std::vector<Ahead> ahead_;
    std::size_t next_ahead_ = 0;
  };

  const ComputeKernels<T>& kernels_;
  ConvProblem p_;
  std::int64_t mr_, nr_, splits_;
  TensorView x_, grad_, weight_;
  bool merged_, flat_ = false, x_in_place_ = false, sum_in_place_ = false;
  Grad how_ = Grad::kPackedPlanes;
  AxisMap rows_map_, columns_map_;
  std::int64_t groups_ = 1, channels_ = 0, outputs_ = 0, taps_ = 1, lanes_ = 0, lane_blocks_ = 0;
  std::int64_t lane_chunk_ = 0, lane_chunks_ = 0, row_chunk_ = 0, row_chunks_ = 0;
  std::int64_t block_pixels_, strips_a_row_ = 1, strip_pixels_ = 0;
  bool shared_ = true;
  std::int64_t pixel_step_ = 1, tap_step_ = 1, most_columns_ = 0;
  std::vector<Strip> strips_;
  T* sums_ = nullptr;
};

}  // namespace

void run_outer(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    OuterPass<double>(plan, tensors).run(threads);
  } else {
    OuterPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
