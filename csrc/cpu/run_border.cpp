// What input grad owes to copied padding, after a kernel that knows zeros only.
//
// With a mode that copies border pixels, the gradient of an input pixel is what zeros give it plus
// the gradients of its copies in the padding. Few pixels have copies: those, image after image, are
// the work items here, in tiles of the indirect kernel, whose entries are the sources that a pixel
// meets through its copies alone. Their sum is added to the result in place. 16-bit results would
// so be rounded twice: there the pixels' sums are computed anew, from all their sources.
//
// A pixel's sources come by tap, row and column, whichever tile it falls in; each pixel belongs to
// one item.
#include <algorithm>
#include <utility>
#include <vector>

#include "../axis_map.h"
#include "../int_math.h"
#include "drivers.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "scratch.h"
#include "tap_panels.h"

namespace convext {
namespace {

std::vector<std::int64_t> kernel_columns(std::int64_t S) {
  std::vector<std::int64_t> columns(S);
  for (std::int64_t s = 0; s < S; ++s) columns[s] = s;
  return columns;
}

// One axis: the sources of each (pixel, tap), which of them are a pixel's own, and which pixels
// have others.
class BorderAxis {
 public:
  BorderAxis(AxisMap sources, std::int64_t outputs, std::int64_t stride, std::int64_t dilation,
             std::int64_t pad)
      : map(std::move(sources)), own_(map.destinations * map.taps, -1) {
    for (std::int64_t d = 0; d < map.destinations; ++d) {
      bool copied = false;
      for (std::int64_t t = 0; t < map.taps; ++t) {
        const std::int64_t distance = d + pad - t * dilation, output = distance / stride;
        if (distance >= 0 && distance % stride == 0 && output < outputs) {
          own_[d * map.taps + t] = output;
        }
        for (std::int64_t i = 0; i < map.count(d, t); ++i) {
          copied = copied || map.list(d, t)[i] != own(d, t);
        }
      }
      touches_.push_back(copied);
      if (copied) touched.push_back(d);
    }
  }

  // The source that zeros would give, or -1.
  std::int64_t own(std::int64_t d, std::int64_t t) const { return own_[d * map.taps + t]; }
  bool touches(std::int64_t d) const { return touches_[d]; }

  AxisMap map;
  std::vector<std::int64_t> touched;

 private:
  std::vector<std::int64_t> own_;
  std::vector<bool> touches_;
};

template <class T>
class BorderPass {
 public:
  BorderPass(const ConvPlan& plan, const ConvTensors& t)
      : kernels_(compute_kernels<T>(plan.border->isa)),
        p_(plan.problem),
        mr_(plan.border->mr),
        nr_(plan.border->nr),
        block_(plan.border_block),
        source_(t.output),
        destination_(t.input),
        anew_(t.input.dtype != compute_dtype<T>()),
        rows_(invert(forward_map_h(p_), p_.H), p_.P, p_.stride_h, p_.dilation_h, p_.pad_top),
        columns_(invert(forward_map_w(p_), p_.W), p_.Q, p_.stride_w, p_.dilation_w, p_.pad_left),
        order_(kernel_columns(p_.S)),
        panels_(kernels_, t.weight,
                {false, p_.groups, p_.channels_per_group(), p_.outputs_per_group(), p_.R, nr_},
                order_),
        in_place_(channels_in_place<T>(source_, p_.K)) {
    make_parts();
  }

  void run(const Threads& threads) {
    if (pixels_ == 0 || p_.is_empty()) return;
    panels_.pack(threads);
    bias_ = scratch<T>(Slot::kBias, nr_);
    for (std::int64_t i = 0; i < nr_; ++i) bias_[i] = 0;
    threads.run_units<Worker>(
        *this, ceil_div(pixels_, block_), p_.groups * panels_.blocks(),
        [&](Worker& worker, std::int64_t item, std::int64_t unit, std::int64_t end) {
          const std::int64_t first = item * block_, last = first + block_;
          worker.item(first, last < pixels_ ? last : pixels_, unit, end);
        });
  }

 private:
  struct Pixel {
    std::int64_t n, h, w;
  };
  // Pixels of an image that meet alike sources: those of whole rows, of columns, and corners.
  struct Part {
    std::vector<Pixel> pixels;  // of image 0
    std::int64_t first;         // of all parts' pixels of all images
  };

  void make_parts() {
    const std::int64_t step_h = p_.stride_h, step_w = p_.stride_w;
    Part rows, columns, corners;
    // Positions of equal remainders modulo the stride meet the same taps.
    for (const std::int64_t h : rows_.touched) {
      for (std::int64_t w0 = 0; w0 < step_w && w0 < p_.W; ++w0) {
        for (std::int64_t w = w0; w < p_.W; w += step_w) {
          (columns_.touches(w) ? corners : rows).pixels.push_back({0, h, w});
        }
      }
    }
    for (const std::int64_t w : columns_.touched) {
      for (std::int64_t h0 = 0; h0 < step_h && h0 < p_.H; ++h0) {
        for (std::int64_t h = h0; h < p_.H; h += step_h) {
          if (!rows_.touches(h)) columns.pixels.push_back({0, h, w});
        }
      }
    }
    for (Part* part : {&rows, &columns, &corners}) {
      if (part->pixels.empty()) continue;
      part->first = pixels_;
      pixels_ += p_.N * static_cast<std::int64_t>(part->pixels.size());
      parts_.push_back(std::move(*part));
    }
  }

  Pixel pixel(std::int64_t i) const {
    std::size_t part = 0;
    while (part + 1 < parts_.size() && parts_[part + 1].first <= i) ++part;
    const std::vector<Pixel>& pixels = parts_[part].pixels;
    const std::int64_t count = static_cast<std::int64_t>(pixels.size());
    Pixel found = pixels[(i - parts_[part].first) % count];
    found.n = (i - parts_[part].first) / count;
    return found;
  }

  // One thread's state.
  class Worker {
   public:
    explicit Worker(BorderPass& pass) : pass_(pass), p_(pass.p_) {
      zeros_ = scratch<T>(Slot::kZeros, p_.K);
      for (std::int64_t i = 0; i < p_.K; ++i) zeros_[i] = 0;
      tile_ = scratch<T>(Slot::kTile, pass.block_ * pass.nr_);
    }

    // Pixels [first, last), through units (group, block of channels) in [unit0, unit1).
    void item(std::int64_t first, std::int64_t last, std::int64_t unit0, std::int64_t unit1) {
      pixels_.clear();
      y_.clear();
      for (std::int64_t i = first; i < last; ++i) {
        pixels_.push_back(pass_.pixel(i));
        y_.push_back(tile_ + (i - first) * pass_.nr_);
      }
      list_sources();
      if (!pass_.in_place_) pack_sources();
      build_tiles();
      for (std::int64_t unit = unit0; unit < unit1; ++unit) run_unit(unit);
    }

   private:
    struct Source {
      std::int32_t tap;
      std::int64_t pixel;  // of all images
    };
    struct TileStart {
      std::size_t pointer, tap;
    };

    // What each pixel meets: tap by tap, within a tap row by row.
    void list_sources() {
      sources_.clear();
      starts_.clear();
      for (const Pixel& pixel : pixels_) {
        starts_.push_back(sources_.size());
        for (std::int64_t r = 0; r < p_.R; ++r) {
          const std::int64_t down = pass_.rows_.map.count(pixel.h, r);
          const std::int64_t* const row = pass_.rows_.map.list(pixel.h, r);
          const std::int64_t own_row = pass_.rows_.own(pixel.h, r);
          if (down == 0) continue;
          for (std::int64_t s = 0; s < p_.S; ++s) {
            const std::int64_t across = pass_.columns_.map.count(pixel.w, s);
            const std::int64_t* const column = pass_.columns_.map.list(pixel.w, s);
            const std::int64_t own_column = pass_.columns_.own(pixel.w, s);
            for (std::int64_t a = 0; a < down; ++a) {
              for (std::int64_t b = 0; b < across; ++b) {
                if (!pass_.anew_ && row[a] == own_row && column[b] == own_column) continue;
                sources_.push_back({static_cast<std::int32_t>(r * p_.S + s),
                                    (pixel.n * p_.P + row[a]) * p_.Q + column[b]});
              }
            }
          }
        }
      }
      starts_.push_back(sources_.size());
    }

    // Each source pixel once, in runs along a row or a column.
    void pack_sources() {
      packed_.clear();
      for (const Source& source : sources_) packed_.push_back(source.pixel);
      std::sort(packed_.begin(), packed_.end());
      packed_.erase(std::unique(packed_.begin(), packed_.end()), packed_.end());
      rows_ = scratch<T>(Slot::kRows, static_cast<std::int64_t>(packed_.size()) * p_.K);
      const TensorView& view = pass_.source_;
      for (std::size_t i = 0; i < packed_.size();) {
        const std::int64_t q = packed_[i] % p_.Q;
        std::size_t count = 1;
        std::int64_t step = view.stride[3];
        while (i + count < packed_.size() &&
               packed_[i + count] == packed_[i] + static_cast<std::int64_t>(count) &&
               q + static_cast<std::int64_t>(count) < p_.Q) {
          ++count;
        }
        if (count == 1) {
          const std::int64_t p = packed_[i] / p_.Q % p_.P;
          step = view.stride[2];
          while (i + count < packed_.size() &&
                 packed_[i + count] == packed_[i] + static_cast<std::int64_t>(count) * p_.Q &&
                 p + static_cast<std::int64_t>(count) < p_.P) {
            ++count;
          }
        }
        pass_.kernels_.pack({address(packed_[i]), view.dtype, step, view.stride[1]},
                            static_cast<std::int64_t>(count), p_.K, p_.K,
                            rows_ + static_cast<std::int64_t>(i) * p_.K, p_.K, 0);
        i += count;
      }
    }

    void* address(std::int64_t pixel) const {
      return element(pass_.source_, pixel / p_.Q / p_.P, 0, pixel / p_.Q % p_.P, pixel % p_.Q);
    }

    const T* find(std::int64_t pixel) {
      if (pass_.in_place_) return static_cast<const T*>(address(pixel));
      ++last_;  // neighbours mostly follow each other
      if (last_ >= packed_.size() || packed_[last_] != pixel) {
        last_ = std::lower_bound(packed_.begin(), packed_.end(), pixel) - packed_.begin();
      }
      return rows_ + static_cast<std::int64_t>(last_) * p_.K;
    }

    // Tables as the indirect kernel wants them: an entry for each tap that a pixel of the tile
    // meets, and another where one meets it again.
    void build_tiles() {
      pointers_.clear();
      taps_.clear();
      tiles_.clear();
      const std::size_t count = pixels_.size(), mr = static_cast<std::size_t>(pass_.mr_);
      std::size_t next[kMostMr];
      for (std::size_t first = 0; first < count; first += mr) {
        tiles_.push_back({pointers_.size(), taps_.size()});
        const std::size_t m = count - first < mr ? count - first : mr;
        for (std::size_t i = 0; i < m; ++i) next[i] = starts_[first + i];
        while (true) {
          std::int32_t tap = INT32_MAX;
          for (std::size_t i = 0; i < m; ++i) {
            if (next[i] < starts_[first + i + 1]) tap = std::min(tap, sources_[next[i]].tap);
          }
          if (tap == INT32_MAX) break;
          taps_.push_back(tap);
          for (std::size_t i = 0; i < m; ++i) {
            const bool there = next[i] < starts_[first + i + 1] && sources_[next[i]].tap == tap;
            pointers_.push_back(there ? find(sources_[next[i]++].pixel) : zeros_);
          }
        }
      }
      tiles_.push_back({pointers_.size(), taps_.size()});
    }

    void run_unit(std::int64_t unit) {
      const std::int64_t g = unit / pass_.panels_.blocks(), block = unit % pass_.panels_.blocks();
      const std::int64_t lanes = p_.channels_per_group(), depth = p_.outputs_per_group();
      const std::int64_t left = lanes - block * pass_.nr_;
      const std::int64_t channels = left < pass_.nr_ ? left : pass_.nr_;
      GemmTile<T> tile;
      tile.x_offset = g * depth;
      tile.depth = depth;
      tile.chain_taps = static_cast<std::int32_t>(depth < kChainTerms ? kChainTerms / depth : 1);
      tile.panel = pass_.panels_.panel(g, block);
      tile.bias = pass_.bias_;
      tile.bias_by_row = false;
      tile.y_offset = 0;
      const std::int64_t count = static_cast<std::int64_t>(pixels_.size());
      for (std::size_t i = 0; i + 1 < tiles_.size(); ++i) {
        const std::int64_t first = static_cast<std::int64_t>(i) * pass_.mr_;
        tile.x = pointers_.data() + tiles_[i].pointer;
        tile.tap = taps_.data() + tiles_[i].tap;
        tile.entries = static_cast<std::int64_t>(tiles_[i + 1].tap - tiles_[i].tap);
        tile.y = y_.data() + first;
        const std::int64_t m = count - first < pass_.mr_ ? count - first : pass_.mr_;
        pass_.kernels_.gemm(tile, static_cast<int>(m),
                            static_cast<int>(ceil_div(channels, pass_.kernels_.lanes)));
      }
      finish(g * lanes + block * pass_.nr_, channels);
    }

    // Sums to the pixels: added, or in place of what lies there.
    void finish(std::int64_t channel, std::int64_t channels) {
      const TensorView& d = pass_.destination_;
      const std::int64_t count = static_cast<std::int64_t>(pixels_.size());
      if (pass_.anew_) {
        for (std::int64_t i = 0; i < count; ++i) {
          const Pixel& to = pixels_[i];
          pass_.kernels_.unpack(y_[i], pass_.nr_, 1, channels,
                                {element(d, to.n, channel, to.h, to.w), d.dtype, 0, d.stride[1]});
        }
        return;
      }
      to_.clear();
      for (const Pixel& to : pixels_) {
        to_.push_back(static_cast<T*>(element(d, to.n, channel, to.h, to.w)));
      }
      if (d.stride[1] == 1) {
        for (std::int64_t i = 0; i < count; ++i) {
          T* const to = to_[i];
          const T* const from = y_[i];
          for (std::int64_t c = 0; c < channels; ++c) to[c] += from[c];
        }
        return;
      }
      // Planes: pixels next to each other share cache lines.
      for (std::int64_t c = 0; c < channels; ++c) {
        for (std::int64_t i = 0; i < count; ++i) to_[i][c * d.stride[1]] += y_[i][c];
      }
    }

    BorderPass& pass_;
    const ConvProblem& p_;
    T *zeros_ = nullptr, *tile_ = nullptr, *rows_ = nullptr;
    std::size_t last_ = 0;
    std::vector<Pixel> pixels_;
    std::vector<Source> sources_;
    std::vector<std::size_t> starts_;   // of each pixel's sources
    std::vector<std::int64_t> packed_;  // source pixels in packed order
    std::vector<const T*> pointers_;
    std::vector<std::int32_t> taps_;
    std::vector<TileStart> tiles_;
    std::vector<T*> y_, to_;
  };

  const ComputeKernels<T>& kernels_;
  const ConvProblem& p_;
  std::int64_t mr_, nr_, block_;
  TensorView source_, destination_;
  bool anew_;
  BorderAxis rows_, columns_;
  std::vector<std::int64_t> order_;
  TapPanels<T> panels_;
  bool in_place_;
  std::vector<Part> parts_;
  std::int64_t pixels_ = 0;  // of all images
  T* bias_ = nullptr;
};

}  // namespace

void run_border(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    BorderPass<double>(plan, tensors).run(threads);
  } else {
    BorderPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
