// Drives fprop and dgrad, dense and grouped: both are the same loop over destination
// pixels, which differ only in the maps from a pixel and a tap to source pixels.
#include <algorithm>
#include <type_traits>
#include <vector>

#include "../int_math.h"
#include "data_pass.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "pointer_table.h"
#include "row_cache.h"
#include "scratch.h"

namespace convext {
namespace {

// Destination pixels of equal remainders modulo the step. In dgrad the step is the stride: only
// within such a class do pixels meet the same taps, and the others' are skipped.
struct PixelClass {
  std::int64_t h0, w0;         // the first pixel
  std::int64_t rows, columns;  // pixels down and across
  std::int64_t first_block;
};

// T is what is computed in, X what rows and packed weights are stored in: T, or bfloat16 in pairs.
template <class T, class X = T>
class IndirectPass : private DataPass {
 public:
  IndirectPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        mr_(plan.kernel->mr),
        nr_(plan.kernel->nr),
        block_(plan.pixel_block),
        merged_(forward_ && plan.merged_columns),
        R_(p_.R),
        S_(p_.S),
        taps_(p_.taps()),
        step_h_(forward_ ? 1 : p_.stride_h),
        step_w_(forward_ ? 1 : p_.stride_w),
        lane_blocks_(ceil_div(outputs_, nr_)),
        rows_(row_map()),
        columns_(column_map()) {
    make_classes();
    make_packed_columns();
  }

  void run(const Threads& threads) {
    pack_weights(threads);
    pack_bias();
    threads.run_units<Worker>(
        *this, p_.N * blocks_, groups_ * lane_blocks_,
        [&](Worker& worker, std::int64_t item, std::int64_t unit, std::int64_t end) {
          worker.item(item / blocks_, item % blocks_, unit, end);
        });
  }

 private:
  static constexpr bool kPairs = !std::is_same_v<X, T>;
  static constexpr std::int64_t kDepthChunk = 32;  // of one item of weight packing; whole pairs

  const RowKernels<X>& row_kernels() const {
    if constexpr (kPairs) {
      return pair_kernels();
    } else {
      return kernels_;
    }
  }

  void make_classes() {
    const std::int64_t H = destination_.size[2], W = destination_.size[3];
    blocks_ = 0;
    most_block_rows_ = 0;
    for (std::int64_t h0 = 0; h0 < step_h_ && h0 < H; ++h0) {
      for (std::int64_t w0 = 0; w0 < step_w_ && w0 < W; ++w0) {
        PixelClass c{h0, w0, ceil_div(H - h0, step_h_), ceil_div(W - w0, step_w_), blocks_};
        blocks_ += ceil_div(c.rows * c.columns, block_);
        const std::int64_t rows = (block_ - 1) / c.columns + 2;
        const std::int64_t most = rows < c.rows ? rows : c.rows;
        if (most > most_block_rows_) most_block_rows_ = most;
        classes_.push_back(c);
      }
    }
  }

  void make_packed_columns() {
    if (merged_) {
      // The padded row: packed column v is virtual column v - pad_left, so the S taps of a pixel
      // lie next to each other and form one run of S * depth channels.
      packed_columns_.assign((p_.Q - 1) * p_.stride_w + S_, -1);
      for (std::int64_t q = 0; q < p_.Q; ++q) {
        for (std::int64_t s = 0; s < S_; ++s) {
          packed_columns_[q * p_.stride_w + s] = columns_.source(q, s);
        }
      }
      merged_step_ = p_.stride_w;
    } else {
      packed_columns_.resize(source_.size[3]);
      for (std::size_t i = 0; i < packed_columns_.size(); ++i) packed_columns_[i] = i;
    }
  }

  // Panels [group][lane block][tap][depth][nr], or [depth / 2][nr][2] where depths are pairs.
  void pack_weights(const Threads& threads) {
    const std::int64_t row_stride = weight_.stride[2], column_stride = weight_.stride[3];
    panels_ = scratch<X>(Slot::kPanels, groups_ * lane_blocks_ * panel_elements());
    const bool taps_adjacent = taps_ > 1 && column_stride == 1 && (R_ == 1 || row_stride == S_);
    // Each item reads source rows along their contiguous direction: lanes of all blocks where lanes
    // are adjacent, depth within one block otherwise.
    const bool lanes_adjacent = output_stride_ == 1 && !kPairs;
    const std::int64_t blocks = lanes_adjacent ? 1 : lane_blocks_;
    const std::int64_t chunks = ceil_div(depth_, kDepthChunk);
    threads.run(groups_ * blocks * chunks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t g = item / chunks / blocks, lb = item / chunks % blocks;
        const std::int64_t d0 = item % chunks * kDepthChunk;
        pack_panels(g, lb, lanes_adjacent ? outputs_ : lanes_in_block(lb), d0,
                    d0 + kDepthChunk < depth_ ? d0 + kDepthChunk : depth_, taps_adjacent);
      }
    });
  }

  // Weights of depths [d0, d1) for `lanes` lanes from lane block lb on.
  void pack_panels(std::int64_t g, std::int64_t lb, std::int64_t lanes, std::int64_t d0,
                   std::int64_t d1, bool taps_adjacent) {
    // A group starts at its first output channel, the weight's dimension 0.
    const std::int64_t k0 = g * (forward_ ? outputs_ : depth_), lane = lb * nr_;
    X* panel = panels_ + (g * lane_blocks_ + lb) * panel_elements();
    const auto source = [&](std::int64_t tap, std::int64_t d) {
      return element(weight_, k0 + (forward_ ? lane : d), forward_ ? d : lane, tap / S_, tap % S_);
    };
    if constexpr (kPairs) {
      if (merged_) return pack_merged_pairs(source, lanes, panel);
      for (std::int64_t tap = 0; tap < taps_; ++tap) {
        row_kernels().pack_pairs({source(tap, d0), weight_.dtype, depth_stride_, output_stride_},
                                 d1 - d0, lanes, nr_,
                                 panel + tap * run_elements(depth_) + d0 * nr_);
      }
    } else if (taps_adjacent) {
      for (std::int64_t d = d0; d < d1; ++d) {
        kernels_.pack({source(0, d), weight_.dtype, 1, output_stride_}, taps_, lanes, nr_,
                      panel + d * nr_, depth_ * nr_, panel_elements());
      }
    } else {
      for (std::int64_t tap = 0; tap < taps_; ++tap) {
        kernels_.pack({source(tap, d0), weight_.dtype, depth_stride_, output_stride_}, d1 - d0,
                      lanes, nr_, panel + (tap * depth_ + d0) * nr_, nr_, panel_elements());
      }
    }
  }

  // The taps of a kernel row are one run, of which pairs may be of two taps.
  template <class Source>
  void pack_merged_pairs(const Source& source, std::int64_t lanes, X* panel) {
    const std::int64_t run = S_ * depth_;
    X* rows = scratch<X>(Slot::kPacked, run * nr_);
    for (std::int64_t r = 0; r < R_; ++r) {
      for (std::int64_t s = 0; s < S_; ++s) {
        row_kernels().pack({source(r * S_ + s, 0), weight_.dtype, depth_stride_, output_stride_},
                           depth_, lanes, nr_, rows + s * depth_ * nr_, nr_, 0);
      }
      row_kernels().pack_pairs({rows, weight_.dtype, nr_, 1}, run, lanes, nr_,
                               panel + r * run_elements(run));
    }
  }

  void pack_bias() {
    const std::int64_t channels = groups_ * lane_blocks_ * nr_;
    packed_bias_ = scratch<T>(Slot::kBias, channels);
    for (std::int64_t i = 0; i < channels; ++i) packed_bias_[i] = 0;
    if (bias_.data == nullptr) return;
    for (std::int64_t g = 0; g < groups_; ++g) {
      kernels_.pack({element(bias_, 0, g * outputs_, 0, 0), bias_.dtype, 0, bias_.stride[1]}, 1,
                    outputs_, lane_blocks_ * nr_, packed_bias_ + g * lane_blocks_ * nr_, 0, 0);
    }
  }

  // Chains of whole kernel rows where a border's copies make several entries of a tap: an entry
  // that a tile has for its other pixels' sake must not cut a chain.
  std::int32_t chain_taps(std::int64_t depth) const {
    const bool copies = rows_.longest > 1 || columns_.longest > 1;
    const std::int64_t whole = copies && !merged_ ? S_ : 1;
    const std::int64_t wholes = kChainTerms / (depth > 0 ? whole * depth : 1);
    return static_cast<std::int32_t>(whole * (wholes > 1 ? wholes : 1));
  }

  std::int64_t run_elements(std::int64_t depth) const {
    return (kPairs ? round_up(depth, 2) : depth) * nr_;
  }
  std::int64_t panel_elements() const {
    return merged_ ? R_ * run_elements(S_ * depth_) : taps_ * run_elements(depth_);
  }
  std::int64_t lanes_in_block(std::int64_t lb) const {
    const std::int64_t left = outputs_ - lb * nr_;
    return left < nr_ ? left : nr_;
  }

  // One thread's state: its packed rows, pointer table and tile of results.
  class Worker {
   public:
    explicit Worker(IndirectPass& pass)
        : pass_(pass),
          source_channels_(pass.groups_ * pass.depth_),
          in_place_(!pass.merged_ && channels_in_place<X>(pass.source_, source_channels_)),
          cache_(pass.row_kernels(), pass.source_, source_channels_, in_place_,
                 pass.most_block_rows_ * pass.R_ * pass.rows_.longest, pass.packed_columns_),
          table_(pass.rows_, pass.columns_, pass.mr_, pass.merged_ ? pass.merged_step_ : 0,
                 cache_.pixel_stride(), pass.merged_ ? pass.S_ * pass.depth_ : source_channels_) {
      destination_channels_ = pass.groups_ * pass.outputs_;
      store_in_place_ = channels_in_place<T>(pass.destination_, destination_channels_);
      const std::int64_t width = pass.nr_;
      tile_ = scratch<T>(Slot::kTile, pass.block_ * width);
      h_.resize(pass.block_);
      w_.resize(pass.block_);
      y_.resize(pass.block_);
      tile_y_.resize(pass.block_);
      for (std::int64_t i = 0; i < pass.block_; ++i) tile_y_[i] = tile_ + i * width;
      tile_width_ = width;
    }

    // Pixels of one block of image n, through units (group, lane block) in [unit0, unit1).
    void item(std::int64_t n, std::int64_t block, std::int64_t unit0, std::int64_t unit1) {
      const PixelClass& c = locate(block);
      const std::int64_t first = (block - c.first_block) * pass_.block_;
      const std::int64_t left = c.rows * c.columns - first;
      pixels_ = left < pass_.block_ ? left : pass_.block_;
      std::int64_t row = first / c.columns, column = first % c.columns;
      for (std::int64_t i = 0; i < pixels_; ++i) {
        h_[i] = c.h0 + row * pass_.step_h_;
        w_[i] = c.w0 + column * pass_.step_w_;
        if (++column == c.columns) {
          column = 0;
          ++row;
        }
      }
      cache_.begin_item(n);
      table_.build(cache_, h_, w_, pixels_);
      if (store_in_place_) {
        for (std::int64_t i = 0; i < pixels_; ++i) {
          y_[i] = static_cast<T*>(element(pass_.destination_, n, 0, h_[i], w_[i]));
        }
      }
      for (std::int64_t unit = unit0; unit < unit1; ++unit) run_unit(n, c, unit);
    }

   private:
    const PixelClass& locate(std::int64_t block) const {
      const auto after = std::upper_bound(
          pass_.classes_.begin(), pass_.classes_.end(), block,
          [](std::int64_t value, const PixelClass& c) { return value < c.first_block; });
      return *(after - 1);
    }

    void run_unit(std::int64_t n, const PixelClass& c, std::int64_t unit) {
      const std::int64_t g = unit / pass_.lane_blocks_, lb = unit % pass_.lane_blocks_;
      const std::int64_t lanes = pass_.lanes_in_block(lb);
      const int lane_count = pass_.kernels_.lanes;
      const int vectors = static_cast<int>(ceil_div(lanes, lane_count));
      const std::int64_t channel = g * pass_.outputs_ + lb * pass_.nr_;
      const bool in_place = store_in_place_ && lanes == vectors * lane_count;
      GemmTile<T, X> tile;
      tile.x_offset = g * pass_.depth_;
      tile.depth = pass_.merged_ ? pass_.S_ * pass_.depth_ : pass_.depth_;
      tile.chain_taps = pass_.chain_taps(tile.depth);
      tile.panel = pass_.panels_ + unit * pass_.panel_elements();
      tile.bias = pass_.packed_bias_ + unit * pass_.nr_;
      tile.bias_by_row = false;
      tile.y_offset = in_place ? channel : 0;
      T* const* y = in_place ? y_.data() : tile_y_.data();
      table_.for_each_tile([&](std::int64_t first, int m, const X* const* x,
                               const std::int32_t* tap, std::int64_t entries) {
        tile.x = x;
        tile.tap = tap;
        tile.entries = entries;
        tile.y = y + first;
        if constexpr (kPairs) {
          pass_.row_kernels().gemm(tile, m, vectors);
        } else {
          pass_.kernels_.gemm(tile, m, vectors);
        }
      });
      if (!in_place) unpack(n, c, channel, lanes);
    }

    // The tile of results to its place, in runs of pixels that lie one stride apart.
    void unpack(std::int64_t n, const PixelClass& c, std::int64_t channel, std::int64_t channels) {
      const TensorView& d = pass_.destination_;
      const std::int64_t step = pass_.step_w_ * d.stride[3];
      const bool rows_follow = pass_.step_h_ * d.stride[2] == c.columns * step;
      std::int64_t i = 0;
      while (i < pixels_) {
        std::int64_t count = pixels_ - i;
        if (!rows_follow) {
          const std::int64_t in_row = c.columns - (w_[i] - c.w0) / pass_.step_w_;
          if (in_row < count) count = in_row;
        }
        pass_.kernels_.unpack(tile_y_[i], tile_width_, count, channels,
                              {element(d, n, channel, h_[i], w_[i]), d.dtype, step, d.stride[1]});
        i += count;
      }
    }

    IndirectPass& pass_;
    std::int64_t source_channels_;
    bool in_place_;
    RowCache<X> cache_;
    PointerTable<X> table_;
    std::int64_t destination_channels_ = 0, tile_width_ = 0, pixels_ = 0;
    bool store_in_place_ = false;
    T* tile_ = nullptr;
    std::vector<std::int64_t> h_, w_;
    std::vector<T*> y_, tile_y_;
  };

  const ComputeKernels<T>& kernels_;
  std::int64_t mr_, nr_, block_;
  bool merged_;  // one table entry a kernel row: its S taps are one run of channels
  std::int64_t R_, S_, taps_;
  std::int64_t step_h_, step_w_, merged_step_ = 1;
  std::int64_t lane_blocks_, blocks_ = 0, most_block_rows_ = 0;
  AxisMap rows_, columns_;
  std::vector<PixelClass> classes_;
  std::vector<std::int64_t> packed_columns_;
  X* panels_ = nullptr;
  T* packed_bias_ = nullptr;
};

}  // namespace

void run_indirect(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    IndirectPass<double>(plan, tensors).run(threads);
  } else if (plan.kernel->algorithm == Algorithm::kIndirectPairs) {
    IndirectPass<float, BFloat16>(plan, tensors).run(threads);
  } else {
    IndirectPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
