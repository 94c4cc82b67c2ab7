// Drives fprop and dgrad of 1x1 kernels: a product of matrices, as far as the layout lets it be
// one.
//
// Pixels are output pixels in both passes. Where channels are adjacent, rows of the product are
// pixels, read where they lie, and lanes are the destination's channels, whose weights are packed.
// Elsewhere lanes are pixels, read where they lie if they are adjacent, and rows are channels,
// whose weights are read one by one. With a stride, fprop gathers a block of source pixels and
// dgrad spreads a block of results among zeros.
//
// Packed weights are shared by all threads and stream past each block of pixels. Where pixels are
// fewer than weights (plan.by_panel), it is the other way round: a thread packs a group of panels,
// a piece of their depth at a time, and all pixels stream past it.
#include <cstring>

#include "../int_math.h"
#include "data_pass.h"
#include "isa_kernels.h"
#include "isa_select.h"
#include "lane_panels.h"
#include "pixel_runs.h"
#include "scratch.h"

namespace convext {
namespace {

template <class T>
class PointwisePass : private DataPass {
 public:
  PointwisePass(const ConvPlan& plan, const ConvTensors& t)
      : DataPass(plan, t),
        plan_(plan),
        kernels_(compute_kernels<T>(plan.kernel->isa)),
        strided_(p_.P != p_.H || p_.Q != p_.W),
        image_(p_.P * p_.Q),
        vectors_(plan.kernel->vectors),
        lanes_(kernels_.lanes),
        block_(plan.pixel_block),
        spread_(t.input),
        source_runs_(forward_ ? every_nth_pixel(t.input, p_.P, p_.Q, p_.stride_h, p_.stride_w)
                              : t.output),
        destination_runs_(
            forward_ ? t.output : every_nth_pixel(t.input, p_.P, p_.Q, p_.stride_h, p_.stride_w)),
        panels_(kernels_, vectors_, weight_, {outputs_, depth_, output_stride_, depth_stride_}) {
    const bool whole = source_runs_.view.dtype == compute_dtype<T>();
    planar_ = source_runs_.view.stride[1] != 1 && depth_ > 1;
    source_in_place_ = whole && (planar_ ? source_runs_.images_are_runs() && source_runs_.step == 1
                                         : source_runs_.one_run());
    // Among zeros, results are spread.
    destination_in_place_ =
        (forward_ || !strided_) && destination_runs_.view.dtype == compute_dtype<T>() &&
        (planar_ ? destination_runs_.images_are_runs() && destination_runs_.step == 1
                 : destination_runs_.one_run() && destination_runs_.view.stride[1] == 1);
  }

  void run(const Threads& threads) {
    pack_bias();
    std::int64_t pixel_items, units;
    if (planar_) {
      prepare_rows(threads);
      // Blocks of whole vectors; what is left of a vector stays in the last block.
      blocks_ = image_ < block_ + lanes_ ? 1 : image_ / block_;
      pixel_items = p_.N * blocks_;
      units = ceil_div(outputs_, kRows);
    } else if (by_panel()) {
      run_panels(threads);
      return;
    } else {
      weights_ = panels_.pack_all(threads);
      pixel_items = ceil_div(p_.N * image_, block_);
      units = panels_.count();
    }
    threads.run_units<Worker>(
        *this, pixel_items, units,
        [&](Worker& worker, std::int64_t item, std::int64_t unit, std::int64_t end) {
          if (planar_) {
            const std::int64_t block = item % blocks_, first = image_ * block / blocks_;
            const std::int64_t channel1 = end * kRows;
            worker.planes(
                item / blocks_, round_up(first, lanes_),
                block + 1 == blocks_ ? image_ : round_up(image_ * (block + 1) / blocks_, lanes_),
                unit * kRows, channel1 < outputs_ ? channel1 : outputs_);
          } else {
            const std::int64_t pixels = p_.N * image_, first = pixels * item / pixel_items;
            worker.rows(first, pixels * (item + 1) / pixel_items - first, unit, end);
          }
        });
  }

 private:
  bool by_panel() const { return plan_.by_panel && !planar_; }

  // Panels are what threads share out; where they are fewer, pixels too, and a panel is packed once
  // for each part of them.
  void run_panels(const Threads& threads) {
    gather_pixels(threads);
    const std::int64_t panels = panels_.count(), pixels = p_.N * image_;
    const std::int64_t parts = least(ceil_div(threads.count, panels), pixels);
    threads.run(panels * parts, [&](std::int64_t begin, std::int64_t end) {
      Worker worker(*this);
      while (begin < end) {
        const std::int64_t part = begin / panels, first = part * panels;
        const std::int64_t next = least(end, first + panels);
        worker.panels(begin - first, next - first, pixels * part / parts,
                      pixels * (part + 1) / parts);
        begin = next;
      }
    });
  }

  // Channels of a unit where rows are channels: a multiple of every tile's rows.
  static constexpr std::int64_t kRows = 24;
  static constexpr std::int64_t kRowsAhead = 8;    // pixels that memory is asked for in advance
  static constexpr std::int64_t kDepthChunk = 32;  // of one item of weight packing
  static constexpr std::int64_t kPixelChunk = 32;  // of one item of gathering all pixels

  // ---- weights ----------------------------------------------------------------------------------

  // Rows are channels: weights as they lie if a row's are adjacent, else [unit][depth][kRows].
  void prepare_rows(const Threads& threads) {
    if (depth_stride_ == 1 && weight_.dtype == compute_dtype<T>()) {
      weights_ = static_cast<const T*>(weight_.data);
      weight_row_ = output_stride_;
      weight_depth_ = 1;
      return;
    }
    const std::int64_t units = ceil_div(outputs_, kRows), chunks = ceil_div(depth_, kDepthChunk);
    T* packed = scratch<T>(Slot::kPanels, units * kRows * depth_);
    weights_ = packed;
    weight_row_ = 1;
    weight_depth_ = kRows;
    threads.run(chunks, [&](std::int64_t begin, std::int64_t end) {
      for (std::int64_t d = begin * kDepthChunk; d < end * kDepthChunk; d += kDepthChunk) {
        void* from = forward_ ? element(weight_, 0, d, 0, 0) : element(weight_, d, 0, 0, 0);
        kernels_.pack({from, weight_.dtype, depth_stride_, output_stride_},
                      depth_ - d < kDepthChunk ? depth_ - d : kDepthChunk, outputs_, kRows,
                      packed + d * kRows, kRows, kRows * depth_);
      }
    });
  }

  void pack_bias() {
    if (bias_.data == nullptr) return;
    bias_values_ = scratch<T>(Slot::kBias, round_up(outputs_, lanes_));
    kernels_.pack({bias_.data, bias_.dtype, 0, bias_.stride[1]}, 1, outputs_,
                  round_up(outputs_, lanes_), bias_values_, 0, 0);
  }

  // ---- pixels -----------------------------------------------------------------------------------

  // All pixels as [pixel][channel], for all threads.
  void gather_pixels(const Threads& threads) {
    const std::int64_t pixels = p_.N * image_;
    pixels_ = static_cast<const T*>(source_in_place_ ? source_runs_.at(0, 0) : nullptr);
    pixel_step_ = source_in_place_ ? source_runs_.step : depth_;
    if (source_in_place_) return;
    T* gathered = scratch<T>(Slot::kRows, pixels * depth_);
    pixels_ = gathered;
    threads.run(ceil_div(pixels, kPixelChunk), [&](std::int64_t begin, std::int64_t end) {
      const std::int64_t first = begin * kPixelChunk, last = end * kPixelChunk;
      gather_rows(first, (last < pixels ? last : pixels) - first, gathered + first * depth_);
    });
  }

  // Pixels [first, first + count) as [pixel][channel].
  void gather_rows(std::int64_t first, std::int64_t count, T* rows) const {
    source_runs_.for_each(first, count, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
      kernels_.pack({source_runs_.at(at, 0), source_runs_.view.dtype, source_runs_.step,
                     source_runs_.view.stride[1]},
                    run, depth_, depth_, rows + i * depth_, depth_, 0);
    });
  }

  // One thread's state: its gathered pixels and its tile of results.
  class Worker {
   public:
    explicit Worker(PointwisePass& pass) : pass_(pass) {
      pieces_ = ceil_div(pass.depth_, kMostDepth);
      const std::int64_t panel = pass.vectors_ * pass.lanes_;
      if (pass.by_panel()) {
        const std::int64_t lanes = least(kPanelsOfGroup, pass.panels_.count()) * panel;
        packed_ = scratch<T>(Slot::kPacked, lanes * least(kMostDepth, pass.depth_));
        tile_ = scratch<T>(Slot::kTile, lanes * pass.p_.N * pass.image_);
      } else if (pass.planar_) {
        rows_ = scratch<T>(Slot::kRows, kMostDepth * panel);
        tile_ = scratch<T>(Slot::kTile, round_up(pass.outputs_, kRows) * panel);
      } else {
        if (!pass.source_in_place_) rows_ = scratch<T>(Slot::kRows, pass.block_ * pass.depth_);
        tile_ = scratch<T>(Slot::kTile, pass.block_ * panel);
      }
      strip_.bias = nullptr;
      strip_.bias_by_row = pass.planar_;
      strip_.ahead = nullptr;
      strip_.copy = nullptr;
    }

    // Pixels [first, first + count) through panels [panel0, panel1).
    void rows(std::int64_t first, std::int64_t count, std::int64_t panel0, std::int64_t panel1) {
      const PixelRuns& source = pass_.source_runs_;
      const PixelRuns& destination = pass_.destination_runs_;
      const T* a = rows_;
      strip_.rows = count;
      strip_.a_depth = 1;
      strip_.a_row = pass_.depth_;
      if (pass_.source_in_place_) {
        a = static_cast<const T*>(source.at(first, 0));
        strip_.a_row = source.step;
      } else if (first != gathered_) {
        pass_.gather_rows(first, count, rows_);
        gathered_ = first;
      }
      for (std::int64_t panel = panel0; panel < panel1; ++panel) {
        const std::int64_t lane = pass_.panels_.begin(panel), lanes = pass_.panels_.lanes(panel);
        const bool in_place = stores_in_place(lanes);
        strip_.lanes = lanes;
        strip_.b_depth = round_up(lanes, pass_.lanes_);
        strip_.y = in_place ? static_cast<T*>(destination.at(first, lane)) : tile_;
        strip_.y_row = in_place ? destination.step : strip_.b_depth;
        strip_.ahead_of_a = panel == panel0 ? kRowsAhead * strip_.a_row : 0;
        strip_.ahead_row = strip_.a_row;
        strip_.ahead_of_y = in_place ? kRowsAhead * strip_.y_row : 0;
        for_each_piece([&](std::int64_t d) {
          strip_.a = a + d;
          strip_.b = pass_.weights_ + lane * pass_.depth_ + d * strip_.b_depth;
          multiply(d, lane);
        });
        if (!in_place) store_rows(first, count, lane, lanes, tile_, strip_.y_row);
      }
    }

    // Pixels [pixel0, pixel1) through panels [begin, end).
    void panels(std::int64_t begin, std::int64_t end, std::int64_t pixel0, std::int64_t pixel1) {
      strip_.a_depth = 1;
      strip_.a_row = strip_.ahead_row = pass_.pixel_step_;
      strip_.ahead_of_y = 0;
      for (std::int64_t group = begin; group < end; group += kPanelsOfGroup) {
        const std::int64_t next = end - group < kPanelsOfGroup ? end : group + kPanelsOfGroup;
        for_each_piece([&](std::int64_t d) {
          pass_.panels_.pack(group, next, d, strip_.depth, packed_, strip_.depth);
          for (std::int64_t first = pixel0; first < pixel1; first += kPixelsOfPiece) {
            strip_.rows = least(pixel1 - first, kPixelsOfPiece);
            strip_.a = pass_.pixels_ + first * pass_.pixel_step_ + d;
            for (std::int64_t panel = group; panel < next; ++panel) {
              strip_.ahead_of_a = panel == group ? kRowsAhead * strip_.a_row : 0;
              multiply_panel(group, panel, first, d);
            }
          }
        });
        for (std::int64_t panel = group; panel < next; ++panel) {
          const std::int64_t lane = pass_.panels_.begin(panel), lanes = pass_.panels_.lanes(panel);
          if (stores_in_place(lanes)) continue;
          const std::int64_t y_row = round_up(lanes, pass_.lanes_);
          store_rows(pixel0, pixel1 - pixel0, lane, lanes,
                     panel_tile(group, panel) + pixel0 * y_row, y_row);
        }
      }
    }

    // Pixels [begin, end) of image n through channels [channel0, channel1), a panel of pixels after
    // the other.
    void planes(std::int64_t n, std::int64_t begin, std::int64_t end, std::int64_t channel0,
                std::int64_t channel1) {
      const PixelRuns& destination = pass_.destination_runs_;
      const std::int64_t count = end - begin, vectors = ceil_div(count, pass_.lanes_);
      const std::int64_t panels = ceil_div(vectors, pass_.vectors_);
      const bool in_place = pass_.destination_in_place_ && count >= pass_.lanes_;
      for (std::int64_t panel = 0; panel < panels; ++panel) {
        const std::int64_t lane = vectors * panel / panels * pass_.lanes_;
        const std::int64_t next = vectors * (panel + 1) / panels * pass_.lanes_;
        const std::int64_t lanes = (next < count ? next : count) - lane;
        const std::int64_t first = n * pass_.image_ + begin + lane;
        const std::int64_t padded = round_up(lanes, pass_.lanes_);
        strip_.lanes = lanes;
        strip_.y_row = in_place ? destination.view.stride[1] : padded;
        strip_.ahead_of_y = in_place ? lanes : 0;
        T* y = in_place ? static_cast<T*>(destination.at(first, channel0)) : tile_;
        for_each_piece([&](std::int64_t d) {
          find_panel(first, d, channel1 - channel0);
          multiply_channels(d, channel0, channel1, y);
        });
        if (in_place) continue;
        const std::int64_t channels = channel1 - channel0;
        if (pass_.strided_ && !pass_.forward_) zero(first, lanes, channel0, channels);
        destination.for_each(first, lanes, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
          pass_.kernels_.unpack(tile_ + i, padded, channels, run,
                                {destination.at(at, channel0), destination.view.dtype,
                                 destination.view.stride[1], destination.step});
        });
      }
    }

   private:
    // A piece of the depth is short enough for its part of a panel to stay in the first-level cache
    // while all rows meet it. Sums go on from one piece to the next, which changes no bit of them.
    static constexpr std::int64_t kMostDepth = 256;

    // By panel: as many panels and pixels of a piece as stay in the second-level cache together.
    static constexpr std::int64_t kPanelsOfGroup = 8, kPixelsOfPiece = 128;

    // The part of a panel at depth d, for pixels [first, first + strip_.rows).
    void multiply_panel(std::int64_t group, std::int64_t panel, std::int64_t first,
                        std::int64_t d) {
      const std::int64_t lane = pass_.panels_.begin(panel);
      strip_.lanes = pass_.panels_.lanes(panel);
      strip_.b_depth = round_up(strip_.lanes, pass_.lanes_);
      strip_.b = packed_ + (lane - pass_.panels_.begin(group)) * strip_.depth;
      if (stores_in_place(strip_.lanes)) {
        strip_.y = static_cast<T*>(pass_.destination_runs_.at(first, lane));
        strip_.y_row = pass_.destination_runs_.step;
      } else {
        strip_.y_row = strip_.b_depth;
        strip_.y = panel_tile(group, panel) + first * strip_.y_row;
      }
      multiply(d, lane);
    }

    bool stores_in_place(std::int64_t lanes) const {
      return pass_.destination_in_place_ && lanes >= pass_.lanes_;
    }

    T* panel_tile(std::int64_t group, std::int64_t panel) const {
      const std::int64_t lanes = pass_.panels_.begin(panel) - pass_.panels_.begin(group);
      return tile_ + lanes * pass_.p_.N * pass_.image_;
    }

    // Results of pixels [first, first + count), from [pixel][y_row] to where they belong.
    void store_rows(std::int64_t first, std::int64_t count, std::int64_t lane, std::int64_t lanes,
                    const T* y, std::int64_t y_row) {
      const PixelRuns& destination = pass_.destination_runs_;
      if (pass_.strided_ && !pass_.forward_) zero(first, count, lane, lanes);
      destination.for_each(first, count, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
        pass_.kernels_.unpack(y + i * y_row, y_row, run, lanes,
                              {destination.at(at, lane), destination.view.dtype, destination.step,
                               destination.view.stride[1]});
      });
    }

    template <class F>
    void for_each_piece(F&& f) {
      for (std::int64_t piece = 0; piece < pieces_; ++piece) {
        const std::int64_t d = pass_.depth_ * piece / pieces_;
        strip_.depth = pass_.depth_ * (piece + 1) / pieces_ - d;
        f(d);
      }
    }

    // The strip at depth d; `lane` is its first channel.
    void multiply(std::int64_t d, std::int64_t lane) {
      strip_.add = d > 0;
      const bool complete = d + strip_.depth == pass_.depth_;
      strip_.bias = complete && pass_.bias_values_ != nullptr ? pass_.bias_values_ + lane : nullptr;
      pass_.kernels_.strip(strip_);
    }

    void multiply_channels(std::int64_t d, std::int64_t channel0, std::int64_t channel1, T* y) {
      const bool packed = pass_.weight_depth_ == kRows;
      const std::int64_t step = packed ? kRows : channel1 - channel0;
      strip_.a_row = pass_.weight_row_;
      strip_.a_depth = pass_.weight_depth_;
      // The next tile's rows, or the next unit.
      strip_.ahead_of_a = packed ? kRows * pass_.depth_ : 4 * strip_.a_row;
      strip_.ahead_row = packed ? strip_.depth : strip_.a_row;
      for (std::int64_t channel = channel0; channel < channel1; channel += step) {
        strip_.rows = channel1 - channel < step ? channel1 - channel : step;
        strip_.a = pass_.weights_ + channel * (packed ? pass_.depth_ : pass_.weight_row_) +
                   d * pass_.weight_depth_;
        strip_.y = y + (channel - channel0) * strip_.y_row;
        multiply(d, channel);
        strip_.ahead = nullptr;
        if (strip_.copy != nullptr) {
          strip_.copy = nullptr;
          strip_.b = rows_;
          strip_.b_depth = round_up(strip_.lanes, pass_.lanes_);
        }
      }
    }

    // The strip's panel of pixels, for `channels` channels: where it lies, and if more than a few
    // of them read it, for it lies far apart, copied by the first.
    void find_panel(std::int64_t first, std::int64_t d, std::int64_t channels) {
      const PixelRuns& source = pass_.source_runs_;
      strip_.ahead = nullptr;
      if (pass_.source_in_place_) {
        const T* planes = static_cast<const T*>(source.at(first, d));
        strip_.ahead = planes + strip_.lanes;  // the next panel
        strip_.ahead_step = source.view.stride[1];
        if (strip_.lanes >= pass_.lanes_) {
          strip_.b = planes;
          strip_.b_depth = source.view.stride[1];
          if (channels > kRows) strip_.copy = rows_;
          return;
        }
      }
      const std::int64_t padded = round_up(strip_.lanes, pass_.lanes_);
      source.for_each(first, strip_.lanes, [&](std::int64_t i, std::int64_t run, std::int64_t at) {
        pass_.kernels_.pack(
            {source.at(at, d), source.view.dtype, source.view.stride[1], source.step}, strip_.depth,
            run, i + run == strip_.lanes ? padded - i : run, rows_ + i, padded, 0);
      });
      strip_.b = rows_;
      strip_.b_depth = padded;
    }

    // Zeros in the channels of each pixel's cell: the pixel and those between it and the next.
    void zero(std::int64_t first, std::int64_t count, std::int64_t channel, std::int64_t channels) {
      const ConvProblem& p = pass_.p_;
      for (std::int64_t i = 0; i < count;) {
        const std::int64_t n = (first + i) / pass_.image_, at = (first + i) % pass_.image_;
        const std::int64_t row = at / p.Q, column = at % p.Q;
        const std::int64_t run = p.Q - column < count - i ? p.Q - column : count - i;
        const std::int64_t h_end = row + 1 == p.P ? p.H : (row + 1) * p.stride_h;
        const std::int64_t w = column * p.stride_w;
        const std::int64_t w_end = column + run == p.Q ? p.W : (column + run) * p.stride_w;
        for (std::int64_t h = row * p.stride_h; h < h_end; ++h) {
          zero_row(n, channel, channels, h, w, w_end - w);
        }
        i += run;
      }
    }

    void zero_row(std::int64_t n, std::int64_t channel, std::int64_t channels, std::int64_t h,
                  std::int64_t w, std::int64_t columns) {
      const TensorView& view = pass_.spread_;
      const std::int64_t size = bytes_of(view.dtype);
      char* data = static_cast<char*>(element(view, n, channel, h, w));
      // The inner of the two loops is the one whose elements are adjacent, if one's are.
      const bool by_pixel = view.stride[1] == 1;
      const std::int64_t outer = by_pixel ? columns : channels;
      const std::int64_t inner = by_pixel ? channels : columns;
      const std::int64_t outer_step = view.stride[by_pixel ? 3 : 1] * size;
      const std::int64_t inner_step = view.stride[by_pixel ? 1 : 3] * size;
      for (std::int64_t o = 0; o < outer; ++o, data += outer_step) {
        if (inner_step == size) {
          std::memset(data, 0, static_cast<std::size_t>(inner * size));
          continue;
        }
        for (std::int64_t i = 0; i < inner; ++i) {
          std::memset(data + i * inner_step, 0, static_cast<std::size_t>(size));
        }
      }
    }

    PointwisePass& pass_;
    MatrixStrip<T> strip_;
    T* rows_ = nullptr;
    T* tile_ = nullptr;
    T* packed_ = nullptr;  // by panel: a piece of a group of panels
    std::int64_t pieces_ = 1;
    std::int64_t gathered_ = -1;  // the first pixel of the block that rows_ holds
  };

  const ConvPlan& plan_;
  const ComputeKernels<T>& kernels_;
  bool strided_, planar_ = false;
  bool source_in_place_ = false, destination_in_place_ = false;
  std::int64_t image_, vectors_, lanes_, block_, blocks_ = 1;
  TensorView spread_;
  PixelRuns source_runs_, destination_runs_;
  LanePanels<T> panels_;
  const T* weights_ = nullptr;
  std::int64_t weight_row_ = 0, weight_depth_ = 0;
  const T* pixels_ = nullptr;  // by panel: all of the source's, pixel_step_ elements apart
  std::int64_t pixel_step_ = 0;
  T* bias_values_ = nullptr;
};

}  // namespace

void run_pointwise(const ConvPlan& plan, const ConvTensors& tensors, const Threads& threads) {
  if (plan.problem.dtype == DType::kFloat64) {
    PointwisePass<double>(plan, tensors).run(threads);
  } else {
    PointwisePass<float>(plan, tensors).run(threads);
  }
}

}  // namespace convext
