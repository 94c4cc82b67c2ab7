// One thread's part of weight grad by outer products: packs a block of pixels of a work item, and
// multiplies it. See run_outer.cpp.
#pragma once

#include <vector>

#include "outer_layout.h"
#include "scratch.h"

namespace convext {

// The weight's taps of one output channel k, for `count` input channels from c on.
template <class T>
void store_taps(const OuterLayout<T>& layout, const T* sums, std::int64_t tap_stride,
                std::int64_t k, std::int64_t c, std::int64_t count) {
  const TensorView& w = layout.weight;
  const std::int64_t R = layout.p.R, S = layout.p.S;
  const std::int64_t pieces = w.stride[2] == S * w.stride[3] ? 1 : R;
  for (std::int64_t r = 0; r < pieces; ++r) {
    layout.kernels.unpack(sums + r * S * tap_stride, tap_stride, R / pieces * S, count,
                          {element(w, k, c, r, 0), w.dtype, w.stride[3], w.stride[1]});
  }
}

template <class T>
class OuterWorker {
 public:
  OuterWorker(const OuterLayout<T>& layout, T* sums)
      : layout_(layout), p_(layout.p), all_sums_(sums) {
    most_strips_ = layout.block_pixels / layout.strip_pixels;
    if (most_strips_ < 1) most_strips_ = 1;
    const std::int64_t most_pixels = most_strips_ * layout.strip_pixels;
    if (layout.x_in_place) {
      pixel_stride_ = p_.stride_w * layout.x.stride[3];
      lane_block_step_ = layout.nr;
    } else {
      most_slots_ = most_strips_ * p_.R;
      // A packed row: [column][nr], or [column][channel] with room to read a last vector.
      const std::int64_t ld = layout.merged ? layout.channels : layout.nr;
      slot_elements_ = layout.most_columns * ld;
      const std::int64_t blocks =
          layout.merged ? 1 : ceil_div(least(layout.lane_chunk, layout.lanes), layout.nr);
      const std::int64_t elements = blocks * most_slots_ * slot_elements_ + layout.nr;
      packed_ = scratch<T>(Slot::kRows, elements);
      lane_block_step_ = layout.merged ? layout.nr : most_slots_ * slot_elements_;
      if (layout.merged) {
        for (std::int64_t i = 0; i < elements; ++i) packed_[i] = 0;
      }
      pixel_stride_ = layout.pixel_step * ld;
      tap_stride_ = layout.tap_step * ld;
      slot_of_.resize(most_slots_);
      if (p_.R > 1) slot_of_row_.assign(p_.H * layout.strips_a_row, -1);
    }
    const std::int64_t row_chunk = least(layout.row_chunk, layout.outputs);
    // A vector more than pixels, for the surplus of whole vectors and so that rows do not lie a
    // power of two apart.
    if (layout.how == OuterGrad::kPackedTiles) {
      grad_ld_ = most_pixels * layout.mr + 2 * layout.kernels.lanes;
      grad_ = scratch<T>(Slot::kGrad, ceil_div(row_chunk, layout.mr) * grad_ld_);
    } else if (layout.how == OuterGrad::kPackedPlanes) {
      grad_ld_ = most_pixels + layout.kernels.lanes;
      grad_ = scratch<T>(Slot::kGrad, row_chunk * grad_ld_);
    }
    if (layout.store_at_once) {
      near_lanes_ = round_up(least(layout.lane_chunk, layout.lanes), layout.nr);
      near_sums_ = scratch<T>(Slot::kTile, layout.mr * layout.taps * near_lanes_);
    }
  }

  void item(std::int64_t split, std::int64_t group, std::int64_t lane_chunk,
            std::int64_t row_chunk) {
    group_ = group;
    lane0_ = lane_chunk * layout_.lane_chunk;
    lane_count_ = least(layout_.lane_chunk, layout_.lanes - lane0_);
    row0_ = row_chunk * layout_.row_chunk;
    row_count_ = least(layout_.row_chunk, layout_.outputs - row0_);
    sums_ = all_sums_ + (split * layout_.groups + group) * layout_.group_elements();
    const std::int64_t strips = layout_.strip_count();
    const std::int64_t end = strips * (split + 1) / layout_.splits;
    const std::int64_t begin = strips * split / layout_.splits;
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
    const std::int64_t row = strip / layout_.strips_a_row, i = strip % layout_.strips_a_row;
    return {row / p_.P, row % p_.P, i, i * layout_.strip_pixels, layout_.pixels_of(strip)};
  }

  void block(std::int64_t first_strip, std::int64_t count) {
    places_.clear();
    for (std::int64_t j = 0; j < count; ++j) places_.push_back(place(first_strip + j));
    if (!layout_.x_in_place) pack_input();
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
      add_ahead(layout_.grad, at, group_ * layout_.outputs + row0_, row_count_);
      if (layout_.flat) add_ahead(layout_.x, at, group_ * layout_.channels + lane0_, lane_count_);
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
        const std::int64_t h = layout_.flat ? 0 : layout_.rows_map.source(at.p, 0);
        slot_of_[j] = h < 0 ? -1 : slots++;
        if (h >= 0) pack_input_row(at, h, slot_of_[j]);
        continue;
      }
      if (at.n != image) {
        forget_rows();
        image = at.n;
      }
      for (std::int64_t r = 0; r < p_.R; ++r) {
        const std::int64_t h = layout_.rows_map.source(at.p, r);
        std::int64_t slot = -1;
        if (h >= 0) {
          std::int64_t& known = slot_of_row_[h * layout_.strips_a_row + at.strip];
          if (known < 0) {
            known = slots++;
            seen_rows_.push_back(h * layout_.strips_a_row + at.strip);
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
    if (layout_.flat) {
      const TensorView& x = layout_.x;
      layout_.kernels.pack({element(x, at.n, group_ * layout_.channels + lane0_, 0, at.q), x.dtype,
                            x.stride[3], x.stride[1]},
                           at.pixels, lane_count_, layout_.nr, packed_at(slot), layout_.nr,
                           most_slots_ * slot_elements_);
      return;
    }
    const std::vector<ColumnRun>& runs = layout_.strips[at.strip].runs;
    if (layout_.merged) {
      pack_row(layout_.kernels, layout_.x, at.n, h, 0, layout_.channels, layout_.channels, runs,
               packed_at(slot), 0);
    } else {
      pack_row(layout_.kernels, layout_.x, at.n, h, group_ * layout_.channels + lane0_, lane_count_,
               layout_.nr, runs, packed_at(slot), most_slots_ * slot_elements_);
    }
  }

  // Some of runs_.
  struct TapRuns {
    std::int64_t first, count, pixels;
  };

  T* packed_at(std::int64_t slot) { return packed_ + slot * slot_elements_; }

  // ---- gradient --------------------------------------------------------------------------------

  void prepare_grad() {
    const TensorView& g = layout_.grad;
    const std::int64_t k0 = group_ * layout_.outputs + row0_;
    const bool tiles = layout_.how == OuterGrad::kPackedTiles;
    const bool packed = tiles || layout_.how == OuterGrad::kPackedPlanes;
    grad_rows_.clear();
    std::int64_t pixels = 0;
    for (const Place& at : places_) {
      grad_rows_.push_back(packed ? grad_ + pixels * (tiles ? layout_.mr : 1)
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
        layout_.kernels.pack_outer_rows({source, g.dtype, g.stride[3], 1}, count, row_count_,
                                        grad_ + pixels * layout_.mr, grad_ld_);
      } else {
        layout_.kernels.pack({source, g.dtype, g.stride[1], g.stride[3]}, row_count_, count, count,
                             grad_ + pixels, grad_ld_, 0);
      }
      pixels += count;
    }
  }

  // ---- multiplication --------------------------------------------------------------------------

  void multiply() {
    find_runs();
    OuterTile<T> tile;
    tile.x_pixel_stride = pixel_stride_;
    tile.add = !first_block_;
    tile.prefetch = reinterpret_cast<const char*>(layout_.grad.data);
    tile.prefetch_step = 0;
    set_grad_steps(&tile);
    const std::int64_t lane_blocks = ceil_div(lane_count_, layout_.nr);
    if (layout_.store_at_once) {
      for (std::int64_t k = 0; k < row_count_; k += layout_.mr) {
        for (std::int64_t b = 0; b < lane_blocks; ++b) {
          for (std::int64_t tap = 0; tap < layout_.taps; ++tap) multiply_tile(k, b, tap, &tile);
        }
        store_rows(k);
      }
      return;
    }
    for (std::int64_t b = 0; b < lane_blocks; ++b) {
      for (std::int64_t tap = 0; tap < layout_.taps; ++tap) {
        for (std::int64_t k = 0; k < row_count_; k += layout_.mr) multiply_tile(k, b, tap, &tile);
      }
    }
  }

  void set_grad_steps(OuterTile<T>* tile) {
    const TensorView& g = layout_.grad;
    switch (layout_.how) {
      case OuterGrad::kPlanes:
        tile->grad_stride = g.stride[1];
        tile_step_ = layout_.mr * g.stride[1];
        break;
      case OuterGrad::kPixels:
        tile->grad_stride = g.stride[3];
        tile_step_ = layout_.mr;
        break;
      case OuterGrad::kPackedTiles:
        tile->grad_stride = layout_.mr;
        tile_step_ = grad_ld_;
        break;
      case OuterGrad::kPackedPlanes:
        tile->grad_stride = grad_ld_;
        tile_step_ = layout_.mr * grad_ld_;
        break;
    }
  }

  void multiply_tile(std::int64_t k, std::int64_t b, std::int64_t tap, OuterTile<T>* tile) {
    const bool planes =
        layout_.how == OuterGrad::kPlanes || layout_.how == OuterGrad::kPackedPlanes;
    const auto kernel = planes ? layout_.kernels.outer_planes : layout_.kernels.outer_pixels;
    const TapRuns& runs = tap_runs_[tap];
    tile->runs = runs_.data() + runs.first;
    tile->run_count = runs.count;
    tile->x_offset = b * lane_block_step_;
    tile->grad_offset = k / layout_.mr * tile_step_;
    place_sum(b, tap, k, tile);
    if (runs.pixels > 0) prefetch(runs.pixels, tile);
    const std::int64_t lanes = least(lane_count_ - b * layout_.nr, layout_.nr);
    kernel(*tile, static_cast<int>(least(row_count_ - k, layout_.mr)),
           static_cast<int>(ceil_div(lanes, layout_.kernels.lanes)));
  }

  // The weight's rows of one tile, whose sums are in the nearest caches.
  void store_rows(std::int64_t first) {
    const std::int64_t rows = least(row_count_ - first, layout_.mr);
    for (std::int64_t i = 0; i < rows; ++i) {
      store_taps(layout_, near_sums_ + i * layout_.taps * near_lanes_, near_lanes_,
                 group_ * layout_.outputs + row0_ + first + i, lane0_, lane_count_);
    }
  }

  // The block's pixels for each tap and the first lane block, as runs that are evenly spaced in
  // both operands.
  void find_runs() {
    runs_.clear();
    tap_runs_.clear();
    for (std::int64_t tap = 0; tap < layout_.taps; ++tap) {
      const std::int64_t r = layout_.merged ? tap : tap / p_.S;
      const std::int64_t s = layout_.merged ? 0 : tap % p_.S;
      tap_runs_.push_back({static_cast<std::int64_t>(runs_.size()), 0, 0});
      if (layout_.x_in_place) {
        find_runs_in_place(r, s);
      } else {
        find_packed_runs(r, s);
      }
    }
  }

  void add_run(const T* grad, std::int64_t grad_step, const T* x, std::int64_t pixels) {
    TapRuns& runs = tap_runs_.back();
    runs.pixels += pixels;
    if (runs.count > 0) {
      PixelRun<T>& last = runs_.back();
      if (last.grad + last.pixels * grad_step == grad &&
          last.x + last.pixels * pixel_stride_ == x) {
        last.pixels += pixels;
        return;
      }
    }
    runs_.push_back({grad, x, pixels});
    ++runs.count;
  }

  std::int64_t grad_pixel_step() const {
    return layout_.how == OuterGrad::kPixels        ? layout_.grad.stride[3]
           : layout_.how == OuterGrad::kPackedTiles ? layout_.mr
                                                    : 1;
  }

  // Rows whose source lies in the padding are left out.
  void find_packed_runs(std::int64_t r, std::int64_t s) {
    const std::int64_t step = grad_pixel_step();
    for (std::size_t j = 0; j < places_.size(); ++j) {
      const std::int64_t slot = slot_of_[j * p_.R + r];
      if (slot < 0) continue;
      add_run(grad_rows_[j], step, packed_at(slot) + s * tap_stride_, places_[j].pixels);
    }
  }

  // In the tensor itself pixels whose source lies in the padding are left out too.
  void find_runs_in_place(std::int64_t r, std::int64_t s) {
    const std::int64_t step = grad_pixel_step();
    const std::int64_t channel = group_ * layout_.channels + lane0_;
    const std::int64_t shift = p_.pad_left - s * p_.dilation_w;  // of w = q * stride_w - shift
    for (std::size_t j = 0; j < places_.size(); ++j) {
      const Place& at = places_[j];
      const std::int64_t h = layout_.flat ? 0 : layout_.rows_map.source(at.p, r);
      if (h < 0) continue;
      std::int64_t first = shift > 0 ? ceil_div(shift, p_.stride_w) : 0;
      if (first < at.q) first = at.q;
      const std::int64_t beyond = p_.W + shift;  // q * stride_w stays below
      std::int64_t last = beyond > 0 ? ceil_div(beyond, p_.stride_w) : 0;
      if (last > at.q + at.pixels) last = at.q + at.pixels;
      if (first >= last) continue;
      add_run(
          grad_rows_[j] + (first - at.q) * step, step,
          static_cast<const T*>(element(layout_.x, at.n, channel, h, first * p_.stride_w - shift)),
          last - first);
    }
  }

  void place_sum(std::int64_t lane_block, std::int64_t tap, std::int64_t k, OuterTile<T>* tile) {
    if (layout_.sum_in_place) {
      const TensorView& w = layout_.weight;
      tile->sum =
          static_cast<T*>(element(w, group_ * layout_.outputs + row0_ + k,
                                  lane0_ + lane_block * layout_.nr, tap / p_.S, tap % p_.S));
      tile->sum_stride = w.stride[0];
    } else if (layout_.store_at_once) {
      tile->sum = near_sums_ + tap * near_lanes_ + lane_block * layout_.nr;
      tile->sum_stride = layout_.taps * near_lanes_;
    } else {
      tile->sum = sums_ + layout_.sum_offset(row0_ + k, lane0_ / layout_.nr + lane_block, tap);
      tile->sum_stride = layout_.nr;
    }
  }

  const OuterLayout<T>& layout_;
  const ConvProblem& p_;
  std::int64_t most_strips_ = 0, most_slots_ = 0, slot_elements_ = 0, grad_ld_ = 0;
  std::int64_t pixel_stride_ = 0, tap_stride_ = 0;  // of input rows
  T* packed_ = nullptr;
  T* grad_ = nullptr;
  T* all_sums_;
  T* sums_ = nullptr;       // the item's
  T* near_sums_ = nullptr;  // of the tile at hand, [mr][tap][near_lanes]
  std::int64_t near_lanes_ = 0;
  std::int64_t lane_block_step_ = 0;  // from one lane block's x to the next one's
  std::int64_t tile_step_ = 0;        // from one tile's gradient to the next one's
  std::int64_t group_ = 0, lane0_ = 0, lane_count_ = 0, row0_ = 0, row_count_ = 0;
  bool first_block_ = true;
  std::vector<Place> places_;              // the block's strips
  std::vector<std::int64_t> slot_of_;      // [strip of the block][r]: packed slot, or -1
  std::vector<std::int64_t> slot_of_row_;  // of the current image, [h][strip]
  std::vector<std::int64_t> seen_rows_;
  std::vector<const T*> grad_rows_;  // [strip of the block]
  std::vector<PixelRun<T>> runs_;    // of all taps
  std::vector<TapRuns> tap_runs_;
  std::vector<Ahead> ahead_;
  std::size_t next_ahead_ = 0;
};

}  // namespace convext
