// Drives fprop and dgrad of 3 x 3 kernels with stride 1 or 2 by Winograd's minimal filtering: tiles
// of the source are transformed, multiplied with the transformed weight, one GEMM for each point,
// and transformed back (winograd_tiles.h). In dgrad the gradient is the source and the taps are
// reversed.
//
// Along each axis a tile knows which source indices it reads (winograd_axis.h), so that padding of
// any mode and tiles that stick out at the end need no code of their own.
#include <vector>

#include "../int_math.h"
#include "data_pass.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "row_cache.h"
#include "scratch.h"
#include "views.h"
#include "winograd_axis.h"

namespace convext {
namespace {

// Adjacent tiles of one class.
struct AxisRun {
  std::int64_t first, count;  // tiles
  std::int64_t destination;   // the first result
  std::int64_t length;        // results
};

template <class T>
class WinogradPass : private DataPass {
 public:
  WinogradPass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        transforms_(transforms_of(kernels_, plan)),
        shape_(winograd_shape(plan)),
        points_(shape_.points * shape_.points),
        filters_(shape_.filters * shape_.filters),
        nr_(plan.kernel->nr),
        block_(plan.pixel_block),
        source_block_(plan.channel_block),
        few_tiles_(plan.few_tiles),
        N_(p_.N),
        step_h_(p_.dilation_h),
        step_w_(p_.dilation_w),
        lane_blocks_(ceil_div(outputs_, nr_)),
        group_columns_(round_up(outputs_, kernels_.lanes)),
        units_(groups_ * lane_blocks_),
        rows_(axis_tiles(row_map(), shape_, step_h_, p_.pad_top, !forward_)),
        columns_(axis_tiles(column_map(), shape_, step_w_, p_.pad_left, !forward_)) {
    make_runs();
  }

  void run(const Threads& threads) {
    if (!few_tiles_) pack_weights(threads);
    pack_bias();
    const std::int64_t segments = N_ * segments_;
    std::int64_t blocks = ceil_div(segments, block_ < longest_run_ ? 1 : block_ / longest_run_);
    if (few_tiles_) blocks = 1;
    // Groups are shared out so that a block's tiles stay near the core. Few blocks: cut them finer
    // where that leaves enough of each, or share out the lane blocks, which transforms the input
    // once for each share. How the work is cut changes no sum.
    std::int64_t parts = groups_ == 1 ? 1 : ceil_div(groups_ * depth_, source_block_);
    const std::int64_t count = threads.count;
    if (count > 1 && blocks * parts < 4 * count) {
      const std::int64_t finer = round_up(blocks, count);
      if (!few_tiles_ && finer <= segments && segments % finer * 4 <= segments) {
        blocks = finer;
      } else {
        const std::int64_t most = groups_ == 1 ? units_ : groups_;
        parts = round_up(parts, count);
        if (parts > most) parts = most;
      }
    }
    most_block_segments_ = ceil_div(segments, blocks);
    // Of one group only a share's own units, of several all units of its groups.
    const std::int64_t shared = groups_ == 1 ? units_ : groups_, each = units_ / shared;
    most_groups_ = ceil_div(groups_, groups_ == 1 ? 1 : parts);
    // A share's weights are used for all blocks before the next share's, unless the source's rows
    // would have to be packed again for each share.
    const bool by_parts = groups_ == 1 || channels_in_place<T>(source_, groups_ * depth_);
    threads.run(blocks * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t part = by_parts ? item / blocks : item % parts;
        const std::int64_t block = by_parts ? item % blocks : item / parts;
        worker.item(segments * block / blocks, segments * (block + 1) / blocks,
                    shared * part / parts * each, shared * (part + 1) / parts * each);
      }
    });
  }

 private:
  static constexpr std::int64_t kDepthChunk = 128;  // of one item of weight packing
  static constexpr std::int64_t kBlockChunk = 4;    // lane blocks of the same
  // Planes of a point lie this much apart from a multiple of their size, which may be a power of
  // two: a transform writes to all of them at once.
  static constexpr std::int64_t kPlanePadding = 16;

  // The tiles of a grid row are cut into runs that fit a block.
  void make_runs() {
    const auto all = static_cast<std::int64_t>(columns_.size());
    longest_run_ = 1;
    for (std::int64_t first = 0, tiles; first < all; first += tiles) {
      // A class ends where the next one starts from the left again.
      tiles = 1;
      while (first + tiles < all &&
             columns_[first + tiles].first > columns_[first].first + step_w_) {
        ++tiles;
      }
      const std::int64_t cuts = ceil_div(tiles, block_);
      for (std::int64_t i = 0; i < cuts; ++i) {
        const std::int64_t t0 = first + tiles * i / cuts, t1 = first + tiles * (i + 1) / cuts;
        const AxisTile& last = columns_[t1 - 1];
        const std::int64_t w = columns_[t0].first;
        runs_.push_back({t0, t1 - t0, w, (last.first - w) / step_w_ + last.count()});
        if (t1 - t0 > longest_run_) longest_run_ = t1 - t0;
      }
    }
    run_count_ = static_cast<std::int64_t>(runs_.size());
    segments_ = static_cast<std::int64_t>(rows_.size()) * run_count_;
  }

  std::int64_t panel_elements() const { return depth_ * nr_; }
  std::int64_t lanes_in_block(std::int64_t lb) const {
    const std::int64_t left = outputs_ - lb * nr_;
    return left < nr_ ? left : nr_;
  }
  // Where a unit's lanes start, in the destination's channels and in padded columns of sums.
  std::int64_t unit_channel(std::int64_t unit) const {
    return unit / lane_blocks_ * outputs_ + unit % lane_blocks_ * nr_;
  }
  std::int64_t unit_column(std::int64_t unit) const {
    return unit / lane_blocks_ * group_columns_ + unit % lane_blocks_ * nr_;
  }

  // Panels [filter][group][lane block][depth][nr].
  void pack_weights(const Threads& threads) {
    panel_stride_ = units_ * panel_elements() + kPlanePadding;
    panels_ = scratch<T>(Slot::kPanels, filters_ * panel_stride_);
    const std::int64_t chunks = ceil_div(depth_, kDepthChunk);
    const std::int64_t blocks = ceil_div(lane_blocks_, kBlockChunk);
    threads.run(groups_ * blocks * chunks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t item = begin; item < end; ++item) {
        const std::int64_t g = item / chunks / blocks, lb = item / chunks % blocks * kBlockChunk;
        const std::int64_t left = lane_blocks_ - lb;
        pack_panels(g, lb, left < kBlockChunk ? left : kBlockChunk, item % chunks * kDepthChunk,
                    panels_ + (g * lane_blocks_ + lb) * panel_elements(), panel_stride_);
      }
    });
  }

  // Weights of a chunk of depths from d0 on and `blocks` lane blocks from lb0 on: all taps to
  // [lane block][tap][depth][nr], from where they are transformed to [filter][lane
  // block][depth][nr].
  void pack_panels(std::int64_t g, std::int64_t lb0, std::int64_t blocks, std::int64_t d0,
                   T* panels, std::int64_t point_stride) {
    const std::int64_t depth = depth_ - d0 < kDepthChunk ? depth_ - d0 : kDepthChunk;
    const std::int64_t tap_stride = depth * nr_, block_stride = 9 * tap_stride;
    T* taps = scratch<T>(Slot::kFilter, kBlockChunk * 9 * kDepthChunk * nr_);
    const std::int64_t lane0 = lb0 * nr_;
    const std::int64_t left = outputs_ - lane0, lanes = left < blocks * nr_ ? left : blocks * nr_;
    // A group starts at its first output channel, the weight's dimension 0.
    const std::int64_t k0 = g * (forward_ ? outputs_ : depth_);
    const auto source = [&](std::int64_t tap, std::int64_t d) {
      return element(weight_, k0 + (forward_ ? lane0 : d), forward_ ? d : lane0, tap / 3, tap % 3);
    };
    if (weight_.stride[3] == 1 && weight_.stride[2] == 3) {
      for (std::int64_t d = 0; d < depth; ++d) {
        kernels_.pack({source(0, d0 + d), weight_.dtype, 1, output_stride_}, 9, lanes, nr_,
                      taps + d * nr_, tap_stride, block_stride);
      }
    } else {
      for (std::int64_t tap = 0; tap < 9; ++tap) {
        kernels_.pack({source(tap, d0), weight_.dtype, depth_stride_, output_stride_}, depth, lanes,
                      nr_, taps + tap * tap_stride, nr_, block_stride);
      }
    }
    WinogradFilters<T> filters;
    filters.count = tap_stride;
    filters.point_stride = point_stride;
    for (std::int64_t b = 0; b < blocks; ++b) {
      filters.taps = taps + b * block_stride + (forward_ ? 0 : 8 * tap_stride);
      filters.tap_stride = forward_ ? tap_stride : -tap_stride;  // the taps, reversed
      filters.u = panels + b * panel_elements() + d0 * nr_;
      transforms_.filter(filters);
    }
  }

  void pack_bias() {
    packed_bias_ = scratch<T>(Slot::kBias, groups_ * group_columns_);
    for (std::int64_t i = 0; i < groups_ * group_columns_; ++i) packed_bias_[i] = 0;
    if (bias_.data == nullptr) return;
    for (std::int64_t g = 0; g < groups_; ++g) {
      kernels_.pack({element(bias_, 0, g * outputs_, 0, 0), bias_.dtype, 0, bias_.stride[1]}, 1,
                    outputs_, group_columns_, packed_bias_ + g * group_columns_, 0, 0);
    }
  }

  // One thread's state: its packed rows, and the points of a block of tiles.
  class Worker {
   public:
    explicit Worker(WinogradPass& pass)
        : pass_(pass),
          source_channels_(pass.groups_ * pass.depth_),
          cache_(pass.kernels_, pass.source_, source_channels_,
                 channels_in_place<T>(pass.source_, source_channels_), pass.shape_.inputs,
                 every_column(pass.source_.size[3])) {
      const std::int64_t destination_channels = pass.groups_ * pass.outputs_;
      store_in_place_ = channels_in_place<T>(pass.destination_, destination_channels);
      const std::int64_t most_tiles = pass.most_block_segments_ * pass.longest_run_;
      const std::int64_t vector = pass.kernels_.lanes;
      input_columns_ = round_up(pass.most_groups_ * pass.depth_, vector);
      input_plane_ = most_tiles * input_columns_ + kPlanePadding;
      points_ = scratch<T>(Slot::kPoints, pass.points_ * input_plane_);
      // The sums of as many lane blocks as fit beside the transformed input, at least four.
      units_at_once_ = kSumsBytes / (pass.points_ * most_tiles * pass.nr_ *
                                     static_cast<std::int64_t>(sizeof(T)));
      if (units_at_once_ < 4) units_at_once_ = 4;
      if (units_at_once_ > pass.units_) units_at_once_ = pass.units_;
      sum_columns_ = units_at_once_ * pass.nr_;
      sum_plane_ = most_tiles * sum_columns_ + kPlanePadding;
      sums_ = scratch<T>(Slot::kSumsOfPoints, pass.points_ * sum_plane_);
      chunk_ = 2 * pass.nr_;
      if (!store_in_place_) {
        buffer_ = scratch<T>(Slot::kTile,
                             most_tiles * pass.shape_.outputs * pass.shape_.outputs * chunk_);
      }
      T* zeros = scratch<T>(Slot::kZeros, source_channels_);
      for (std::int64_t i = 0; i < source_channels_; ++i) zeros[i] = 0;
      zeros_ = zeros;
    }

    // Segments [s0, s1), runs of tiles of whichever images, through units [unit0, unit1).
    void item(std::int64_t s0, std::int64_t s1, std::int64_t unit0, std::int64_t unit1) {
      tiles_.clear();
      bands_.clear();
      group0_ = unit0 / pass_.lane_blocks_;
      item_groups_ = ceil_div(unit1, pass_.lane_blocks_) - group0_;
      for (std::int64_t s = s0; s < s1; ++s) {
        add_segment(s / pass_.segments_, s % pass_.segments_ / pass_.run_count_,
                    pass_.runs_[s % pass_.run_count_]);
      }
      for (std::int64_t u0 = unit0; u0 < unit1; u0 += units_at_once_) {
        const std::int64_t u1 = u0 + units_at_once_ < unit1 ? u0 + units_at_once_ : unit1;
        multiply(u0, u1);
        // Where lanes of groups leave no gaps all of them are one range.
        const bool gapless = pass_.group_columns_ == pass_.outputs_;
        for (std::int64_t u = u0, end; u < u1; u = end) {
          end = (u / pass_.lane_blocks_ + 1) * pass_.lane_blocks_;
          if (gapless || end > u1) end = u1;
          const std::int64_t channel = pass_.unit_channel(u);
          const std::int64_t channels = pass_.unit_channel(end - 1) +
                                        pass_.lanes_in_block((end - 1) % pass_.lane_blocks_) -
                                        channel;
          write(pass_.unit_column(u) - pass_.unit_column(u0), pass_.unit_column(u), channel,
                channels);
        }
      }
    }

   private:
    static constexpr std::int64_t kSumsBytes = 256 << 10;

    struct Tile {
      const AxisTile* row;
      const AxisTile* column;
      std::int64_t pixel;  // its first result's place in its band
    };
    // Results that are written together: [row][width], rows and columns a step apart.
    struct Band {
      std::int64_t n, first_tile, tiles;
      std::int64_t h, w, rows, width;
    };

    static std::vector<std::int64_t> every_column(std::int64_t width) {
      std::vector<std::int64_t> columns(width);
      for (std::int64_t i = 0; i < width; ++i) columns[i] = i;
      return columns;
    }

    void add_segment(std::int64_t n, std::int64_t row, const AxisRun& run) {
      const AxisTile& r = pass_.rows_[row];
      // A whole grid row below the previous one continues its band.
      const bool whole = pass_.run_count_ == 1 && pass_.step_h_ == 1;
      if (bands_.empty() || !whole || bands_.back().n != n) {
        bands_.push_back({n, static_cast<std::int64_t>(tiles_.size()), 0, r.first, run.destination,
                          0, run.length});
      }
      Band& band = bands_.back();
      cache_.begin_item(n);
      const T* source_row[kMostWinogradSide];
      const int side = pass_.shape_.inputs;
      for (int i = 0; i < side; ++i) {
        source_row[i] =
            r.source[i] < 0 ? nullptr : cache_.row(r.source[i]) + group0_ * pass_.depth_;
      }
      const T* x[kMostWinogradSide * kMostWinogradSide];
      WinogradInput<T> input;
      input.x = x;
      input.channels = item_groups_ * pass_.depth_;
      input.point_stride = input_plane_;
      for (std::int64_t t = 0; t < run.count; ++t) {
        const AxisTile& c = pass_.columns_[run.first + t];
        for (int j = 0; j < side; ++j) {
          const std::int64_t offset = c.source[j] * cache_.pixel_stride();
          for (int i = 0; i < side; ++i) {
            x[i * side + j] =
                source_row[i] == nullptr || c.source[j] < 0 ? zeros_ : source_row[i] + offset;
          }
        }
        input.v = points_ + static_cast<std::int64_t>(tiles_.size()) * input_columns_;
        pass_.transforms_.input(input);
        tiles_.push_back(
            {&r, &c, band.rows * band.width + (c.first - run.destination) / pass_.step_w_});
      }
      band.rows += r.count();
      band.tiles += run.count;
    }

    // The GEMMs of all points, those that share a filter one after the other.
    void multiply(std::int64_t u0, std::int64_t u1) {
      WinogradSums<T> sums;
      sums.x_stride = input_columns_;
      sums.y_stride = sum_columns_;
      sums.tiles = static_cast<std::int64_t>(tiles_.size());
      sums.depth = pass_.depth_;
      if (pass_.few_tiles_) {
        // Where lanes are adjacent in memory a panel alone would read a cache line here and there.
        const std::int64_t most = pass_.output_stride_ == 1 ? kBlockChunk : 1;
        const std::int64_t stride = most * pass_.panel_elements() + kPlanePadding;
        T* panels = scratch<T>(Slot::kPanels, pass_.filters_ * stride);
        for (std::int64_t u = u0, end; u < u1; u = end) {
          const std::int64_t group_end = (u / pass_.lane_blocks_ + 1) * pass_.lane_blocks_;
          end = u + most < group_end ? u + most : group_end;
          if (end > u1) end = u1;
          for (std::int64_t d = 0; d < pass_.depth_; d += kDepthChunk) {
            pass_.pack_panels(u / pass_.lane_blocks_, u % pass_.lane_blocks_, end - u, d, panels,
                              stride);
          }
          for (std::int64_t filter = 0; filter < pass_.filters_; ++filter) {
            for (std::int64_t unit = u; unit < end; ++unit) {
              const T* panel = panels + filter * stride + (unit - u) * pass_.panel_elements();
              sum_unit(&sums, u0, unit, filter, panel, panel + pass_.panel_elements());
            }
          }
        }
        return;
      }
      const auto panel = [&](std::int64_t filter, std::int64_t unit) {
        return pass_.panels_ + filter * pass_.panel_stride_ + unit * pass_.panel_elements();
      };
      for (std::int64_t filter = 0; filter < pass_.filters_; ++filter) {
        const std::int64_t next = filter + 1 < pass_.filters_ ? filter + 1 : filter;
        for (std::int64_t unit = u0; unit < u1; ++unit) {
          sum_unit(&sums, u0, unit, filter, panel(filter, unit),
                   unit + 1 < u1 ? panel(filter, unit + 1) : panel(next, u0));
        }
      }
    }

    void sum_unit(WinogradSums<T>* sums, std::int64_t u0, std::int64_t unit, std::int64_t filter,
                  const T* panel, const T* next) {
      const std::int64_t g = unit / pass_.lane_blocks_;
      const std::int64_t lanes = pass_.lanes_in_block(unit % pass_.lane_blocks_);
      const std::int64_t x = (g - group0_) * pass_.depth_;
      const std::int64_t y = pass_.unit_column(unit) - pass_.unit_column(u0);
      sums->panel = panel;
      sums->next = next;
      each_point(pass_.shape_, filter, [&](std::int64_t point) {
        sums->x = points_ + point * input_plane_ + x;
        sums->y = sums_ + point * sum_plane_ + y;
        pass_.kernels_.winograd_sums(*sums,
                                     static_cast<int>(ceil_div(lanes, pass_.kernels_.lanes)));
        sums->next = panel;  // is on its way already
      });
    }

    // Results of `channels` channels from their column of sums on, to where they belong.
    void write(std::int64_t column, std::int64_t bias_column, std::int64_t channel,
               std::int64_t channels) {
      const TensorView& d = pass_.destination_;
      WinogradOutput<T> output;
      output.point_stride = sum_plane_;
      const std::int64_t most = store_in_place_ ? channels : chunk_;
      for (const Band& band : bands_) {
        for (std::int64_t c = 0; c < channels; c += most) {
          output.channels = channels - c < most ? channels - c : most;
          output.bias = pass_.packed_bias_ + bias_column + c;
          output.row_stride = store_in_place_ ? pass_.step_h_ * d.stride[2] : band.width * chunk_;
          output.column_stride = store_in_place_ ? pass_.step_w_ * d.stride[3] : chunk_;
          for (std::int64_t t = band.first_tile; t < band.first_tile + band.tiles; ++t) {
            const Tile& tile = tiles_[t];
            output.m = sums_ + t * sum_columns_ + column + c;
            output.rows = tile.row->end;
            output.columns = tile.column->end;
            output.first_row = tile.row->begin;
            output.first_column = tile.column->begin;
            output.y = store_in_place_
                           ? static_cast<T*>(element(d, band.n, channel + c, tile.row->first,
                                                     tile.column->first))
                           : buffer_ + tile.pixel * chunk_;
            pass_.transforms_.output(output);
          }
          if (!store_in_place_) unpack(band, channel + c, output.channels);
        }
      }
    }

    void unpack(const Band& band, std::int64_t channel, std::int64_t channels) {
      const TensorView& d = pass_.destination_;
      const std::int64_t step = pass_.step_w_ * d.stride[3];
      const bool rows_follow = pass_.step_h_ * d.stride[2] == band.width * step;
      const std::int64_t count = rows_follow ? band.rows * band.width : band.width;
      for (std::int64_t i = 0; i < band.rows * band.width; i += count) {
        const std::int64_t h = band.h + i / band.width * pass_.step_h_;
        pass_.kernels_.unpack(buffer_ + i * chunk_, chunk_, count, channels,
                              {element(d, band.n, channel, h, band.w), d.dtype, step, d.stride[1]});
      }
    }

    WinogradPass& pass_;
    std::int64_t source_channels_;
    RowCache<T> cache_;
    bool store_in_place_ = false;
    std::int64_t group0_ = 0, item_groups_ = 1;
    std::int64_t input_columns_, input_plane_, sum_columns_, sum_plane_, units_at_once_, chunk_;
    const T* zeros_ = nullptr;
    T* points_ = nullptr;  // [point][tile][source channel]
    T* sums_ = nullptr;    // [point][tile][column]
    T* buffer_ = nullptr;  // [pixel of a band][chunk]
    std::vector<Tile> tiles_;
    std::vector<Band> bands_;
  };

  const ComputeKernels<T>& kernels_;
  const WinogradKernels<T>& transforms_;
  WinogradShape shape_;
  std::int64_t points_, filters_, nr_, block_, source_block_;
  bool few_tiles_;  // one block: each panel of weights is transformed by the item that uses it
  std::int64_t N_, step_h_, step_w_;
  std::int64_t lane_blocks_, group_columns_, units_;
  std::vector<AxisTile> rows_, columns_;
  std::vector<AxisRun> runs_;
  std::int64_t run_count_ = 0, segments_ = 0, longest_run_ = 1;
  std::int64_t most_block_segments_ = 1, most_groups_ = 1;
  std::int64_t panel_stride_ = 0;
  T* panels_ = nullptr;
  T* packed_bias_ = nullptr;
};

}  // namespace

void run_winograd(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.is_empty()) return;
  if (plan.problem.dtype == DType::kFloat64) {
    WinogradPass<double>(plan, tensors).run(threads);
  } else {
    WinogradPass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
