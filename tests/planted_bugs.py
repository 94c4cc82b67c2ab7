"""The bugs that test_mutants.py plants into the CUDA kernels, one at a time."""

from __future__ import annotations

from dataclasses import dataclass

# Parts of the names that the emulation gives rungs and what it tests beside them.
NAIVE = "naive_f32"
SIMT = "simt_f32"
MMA = "mma_f16"
TF32 = "mma_tf32"
F64 = "mma_f64"
FIRST = "simt_first"
GROUPED = "grouped_f32"
DEPTHWISE = "depthwise_f32"
WGMMA = "wgmma"
WGMMA_FPROP = "fprop_wgmma_f16"
WGMMA_SWAPPED = "fprop_wgmma_f16_nhwc_256x64"
WGMMA_DGRAD = "dgrad_wgmma_f16"
WGMMA_TF32 = "wgmma_tf32"
WGMMA_WGRAD = "wgrad_wgmma_f16"
BGRAD = "bgrad_rowsum"
COPIES = "copy_layout"
COMPLEX = "complex_weights"


@dataclass(frozen=True)
class Mutant:
    file: str
    place: str  # a text of the file; what is replaced stands between « and »
    new: str
    concerns: str
    occurrence: int = 0  # of `place`
    checked: bool = False  # found where every access is checked

    @property
    def old(self) -> str:
        return self.place[self.place.index("«") + 1 : self.place.index("»")]

    def span(self, text: str) -> tuple[int, int]:
        """Where `old` is in the file's text."""
        whole = self.place.replace("«", "").replace("»", "")
        parts = text.split(whole)
        assert len(parts) > self.occurrence + 1, f"{self.file} does not hold {self.place}"
        start = len(whole.join(parts[: self.occurrence + 1])) + self.place.index("«")
        return start, start + len(self.old)


MUTANTS = [
    # ---- index arithmetic
    Mutant("index_math.cuh", "«2 * (extent - 1) - v»", "2 * extent - 1 - v", NAIVE),
    Mutant("index_math.cuh", "«v < 0 ? v + extent : v - extent»", "v + extent", NAIVE),
    Mutant("index_math.cuh", "«v < 0 ? 0 : extent - 1»", "0", NAIVE),
    Mutant("index_math.cuh", "(«h <= extent - 2» &&", "h <= extent - 1", NAIVE),
    Mutant("index_math.cuh", "(«h == 0 ? before : 0») + (h", "h == 0 ? 1 : 0", NAIVE),
    Mutant("index_math.cuh", "«return -i;»", "return -i - 1;", NAIVE),
    Mutant("index_math.cuh", "at < 0 || «at % stride != 0»", "false", NAIVE),
    Mutant("index_math.cuh", "axis.first_output = «at / stride»", "0", SIMT),
    Mutant(
        "index_math.cuh", "«(taps - t + tap_step - 1) / tap_step»", "(taps - t) / tap_step", SIMT
    ),
    Mutant("index_math.cuh", "«(extent - residue + stride - 1) / stride»", "extent / stride", SIMT),
    Mutant("index_math.cuh", "«++pixel->p == P»", "++pixel->p > P", SIMT),
    Mutant("index_math.cuh", "«(extent - 1) / size + 1»;", "extent / size + 1", SIMT),
    Mutant("divisor.h", "static_cast<std::uint64_t>(divisor) + «1»", "0", NAIVE),
    Mutant("params.cpp", "v.output_step_h = «v.dilation_h»", "v.stride_h", SIMT),
    Mutant("element.cuh", "if («e < left») to[e]", "true", SIMT),
    # ---- naive
    Mutant(
        "naive.cuh",
        "«if (index >= static_cast<std::int64_t>(v.N) * v.P * v.Q * v.K) return;»",
        "",
        NAIVE,
    ),
    Mutant("naive.cuh", "«if (bias != nullptr) sum += to_compute(bias[k]);»", "", NAIVE),
    Mutant("naive.cuh", "const int channel = «c % v.channels»;", "c", NAIVE),
    Mutant("naive.cuh", "«k / v.outputs * v.channels» + c;", "0", NAIVE),
    Mutant("naive.cuh", "«if (k >= v.K) return;»", "", NAIVE),
    # ---- operands of the implicit GEMM
    Mutant("index_math.cuh", "if («++s < taps_across») return;", "++s <= taps_across", SIMT),
    Mutant("operands.cuh", "«left > 0 ? a_from[i] : nullptr»", "a_from[i]", MMA),
    Mutant("operands.cuh", "«k < v.outputs» && c < v.channels", "true", MMA),
    Mutant("operands.cuh", "at.n, 0, 0, 0) + «group * v.channels»", "0", SIMT),
    Mutant("operands.cuh", "p >= 0 && «p < v.P»", "p <= v.P", SIMT),
    Mutant(
        "operands.cuh",
        "«row.w - walk.s * v.output_step_w»",
        "row.w + walk.s * v.output_step_w",
        SIMT,
    ),
    Mutant("operands.cuh", "«walk.r * v.tap_step_h» * v.weight.h", "walk.r", SIMT),
    Mutant("operands.cuh", "k < v.outputs && «c < v.channels»", "true", MMA),
    Mutant("operands.cuh", "«A::depth(i) < left» && k < v.outputs", "true", SIMT),
    Mutant("operands.cuh", "«left -= Tile::kK;»", "", SIMT),
    Mutant("operands.cuh", "B::depth(i) < left && «c < v.channels»", "true", MMA),
    # ---- implicit GEMM
    Mutant("implicit_gemm.cuh", "bias[«group * v.outputs» + lane + e]", "0", SIMT),
    Mutant("implicit_gemm.cuh", "«if (lane + e >= v.outputs) break;»", "", MMA),
    Mutant("implicit_gemm.cuh", "at.p, at.q) : «-1»;", "0", SIMT),
    Mutant("implicit_gemm.cuh", "«__syncthreads();»  // the rows are there", "", MMA, checked=True),
    Mutant(
        "implicit_gemm.cuh", "«__syncthreads();»  // the rows are there", "", MMA, 1, checked=True
    ),
    Mutant("implicit_gemm.cuh", "«pixels < share ? pixels : share»", "share", SIMT),
    Mutant("implicit_gemm.cuh", "split * v.K + «group * v.outputs» + k", "0", SIMT),
    Mutant("implicit_gemm.cuh", "split = «1»; split < splits", "2", SIMT),
    # ---- SIMT
    Mutant("simt_tile.cuh", "«__syncthreads();»  // the first copy is filled", "", SIMT),
    Mutant(
        "simt_tile.cuh", "«__syncthreads();»  // one copy is free, the other is filled", "", SIMT
    ),
    Mutant("simt_tile.cuh", "const int copy = «step % 2»;", "0", SIMT),
    Mutant("simt_tile.cuh", "depth(i) + «(DepthAdjacent ? e : 0)»", "0", SIMT),
    Mutant("simt_tile.cuh", "from != nullptr && «e < count» ?", "true", SIMT),
    # ---- tensor cores
    Mutant("mma_tile.cuh", "«cp_async_wait<Stages - 2>();»", "cp_async_wait<Stages - 1>();", MMA),
    Mutant("mma_tile.cuh", "«__syncthreads();»  // this stage is there", "", MMA),
    Mutant("mma_tile.cuh", "if («next < steps») {", "next <= steps", MMA),
    Mutant("mma_tile.cuh", "«cp_async_commit();»", "", MMA, 1),
    Mutant("mma_tile.cuh", "«half * 2 + thread / 16»));", "half * 2", MMA),
    Mutant("mma_tile.cuh", "«half * 2 + thread / 8 % 2»));", "half * 2", MMA),
    Mutant("mma_tile.cuh", "«row / 8 + thread / 8 % 2», kM", "row / 8", MMA),
    Mutant("mma_tile.cuh", "«lane / 8 + thread / 16», kN", "lane / 8", MMA),
    Mutant("mma_tile.cuh", "«half * 8» + thread / 4);", "0", MMA),
    Mutant("mma_tile.cuh", "{b[2], «b[3]»}", "b[2]", MMA),
    Mutant("mma_tile.cuh", "«from != nullptr ? 16 : 0»", "16", MMA),
    Mutant("index_math.cuh", "«((chunk ^ key) << 4)»", "chunk << 5", MMA),
    Mutant("mma_tile.cuh", "row + thread / 4 + «i % 2 * 8», kM", "0", TF32),
    Mutant("mma_tile.cuh", "thread % 4 + «i % 2 * 4», lane", "0", TF32),
    Mutant("mma_tile.cuh", "+ «depth % 2 * 8»", "0", F64),
    Mutant("mma_tile.cuh", "+ «at % 2 * 8»;", "0", F64),
    Mutant("mma_tile.cuh", "«as_double(a[2 * i], a[2 * i + 1])»", "as_double(a[0], a[1])", F64),
    Mutant("mma_tile.cuh", "d[2 * i + 1] = «rows[1]»;", "rows[0]", F64),
    # ---- first layers
    Mutant("index_math.cuh", "«j * 21846 >> 16»", "j * 21844 >> 16", FIRST),
    Mutant("first_layer.cuh", "h < 0 || «s >= v.S»", "false", FIRST),
    Mutant("first_layer.cuh", "k < v.K && «s < v.S»", "true", FIRST),
    Mutant("first_layer.cuh", "«w0 + s * v.dilation_w»", "w0 + s", FIRST),
    Mutant("first_layer.cuh", "if («j0 < v.S * v.channels») return;", "j0 < v.S", FIRST),
    Mutant("first_layer.cuh", "«k < v.K» && s < v.S", "true", FIRST),
    Mutant("first_layer.cuh", "«B::depth(i) < this->left»", "true", FIRST),
    Mutant("first_layer.cuh", "«this->r = row;»", "", FIRST),
    Mutant("first_layer.cuh", "«v.input.w == v.channels» &&", "true", FIRST),
    Mutant("first_layer.cuh", "«at + e >= 0» && at + e < end", "true", FIRST),
    # ---- grouped
    Mutant("grouped.cuh", "«__syncthreads();»  // the weights are there", "", GROUPED),
    Mutant("grouped.cuh", "«__syncthreads();»  // the weights are there", "", GROUPED, 1),
    Mutant("grouped.cuh", "«__syncthreads();»  // all warps' sums are there", "", GROUPED),
    Mutant("grouped.cuh", "«channel / v.channels * v.outputs» + d", "0", GROUPED),
    Mutant("grouped.cuh", "«k / v.outputs * v.channels»;", "0", GROUPED),
    Mutant("grouped.cuh", "«if (q0 + i >= v.Q) break;»", "", GROUPED),
    Mutant("grouped.cuh", "«s0 + t >= v.S» || k0 + from", "false", GROUPED),
    Mutant("grouped.cuh", "«block_count(v.S, Tile::kTaps)»", "1", GROUPED),
    Mutant("grouped.cuh", "+ c0 + «e»] = total", "0", GROUPED),
    # ---- depthwise
    Mutant("depthwise.cuh", "taps[i] = «k < v.K» ?", "true", DEPTHWISE),
    Mutant("depthwise.cuh", "«__syncthreads();»  // the taps are there", "", DEPTHWISE),
    Mutant("depthwise.cuh", "«__syncthreads();»  // the taps are there", "", DEPTHWISE, 1),
    Mutant("depthwise.cuh", "«lane * multiplier» + m;", "lane", DEPTHWISE),
    Mutant("depthwise.cuh", "row += «Tile::kStrips»", "1", DEPTHWISE),
    Mutant("depthwise.cuh", "«s0 + t >= v.S» || k0 + channel", "false", DEPTHWISE),
    Mutant("depthwise.cuh", "«__syncthreads();»  // all warps' sums are there", "", DEPTHWISE),
    Mutant("depthwise.cuh", "«if (q0 + i >= v.Q) break;»", "", DEPTHWISE),
    Mutant(
        "depthwise.cuh",
        "if (j >= «(outputs - 1) * Step + S»)",
        "(outputs - 2) * Step + S",
        DEPTHWISE,
    ),
    Mutant("depthwise.cuh", "const int s = «j - i * Step»;", "j - i", DEPTHWISE),
    Mutant("depthwise.cuh", "v.pad_left - «(S - 1)»", "S", DEPTHWISE),
    Mutant("depthwise.cuh", "«Flip ? -kChannels : kChannels»", "kChannels", DEPTHWISE),
    Mutant("depthwise.cuh", "«static_cast<std::int64_t>(rest) * turns» + turn", "rest", DEPTHWISE),
    Mutant("depthwise.cuh", "«if (i >= outputs) break;»", "", DEPTHWISE),
    # ---- Hopper: pixels, taps and channels
    Mutant("wgmma_geometry.h", "axis.start = «-pad»;", "0", WGMMA_FPROP),
    Mutant("wgmma_geometry.h", "axis.offset_step = «dilation»;", "1", WGMMA_FPROP),
    Mutant("wgmma_geometry.h", "? «(of.taps - 1) * output_step» : 0", "0", WGMMA_DGRAD),
    Mutant("wgmma_geometry.h", "? «of.first_output - axis.offset» :", "0", WGMMA_DGRAD),
    Mutant("wgmma_geometry.h", "axis.first_tap = «of.first_tap»;", "0", WGMMA_DGRAD),
    Mutant("wgmma_geometry.h", "return slices == 0 ? «1» :", "0", WGMMA_DGRAD),
    Mutant("wgmma_geometry.h", "(pass != Pass::kDgrad || «v.Q * v.S == v.W»)", "true", WGMMA_DGRAD),
    Mutant("wgmma_geometry.h", "v.input.w = v.W > 1 ? «v.C» : 0;", "v.C / columns", WGMMA_FPROP),
    Mutant("wgmma_geometry.h", "h > 1 && «s.h != w * pitch»", "false", WGMMA),
    Mutant(
        "wgmma_geometry.h",
        "v.pad_left == 0 &&\n                     «v.Q * v.S <= v.W»",
        "true",
        WGMMA,
    ),
    Mutant("wgmma_maps.h", "«(axis.count - 1) * axis.step»", "axis.count * axis.step", WGMMA_FPROP),
    Mutant("wgmma_maps.h", "return «whole(of.rows, t.rows)» &&", "true", WGMMA),
    Mutant("wgmma_maps.h", "v.channels, v.K, «taps * v.K»", "v.K", WGMMA_TF32),
    # ---- Hopper: the main loop
    Mutant("matrix_descriptor.h", "«(leading >> 4 & 0x3fff)» << 16", "0", WGMMA_WGRAD),
    Mutant("matrix_descriptor.h", "swizzle == 64 ? «2» : 3", "1", WGMMA),
    Mutant("wgmma_tile.cuh", "at + «first * slice»)", "0", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "«i * 32 / slice * rows * slice» +", "0", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "«i * 16 * width»", "i * 32", WGMMA_WGRAD),
    Mutant("wgmma_tile.cuh", "«128 / width * chunk»", "0", WGMMA_WGRAD),
    Mutant("wgmma_tile.cuh", "«4 * kConsumers * ctas»", "4 * kConsumers", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "if («++stage < kStages») return;", "++stage <= kStages", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "«parity ^= 1;»", "", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "«mbarrier_wait(&empty[stage], parity ^ 1);»", "", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "expect(&full[stage], «kStageBytes»);", "kABytes", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "if («cta < ctas») mbarrier_arrive_at", "cta < 1", WGMMA_FPROP),
    Mutant(
        "wgmma_tile.cuh",
        "«smem_address(ring->here()) & 0x3ffff»;",
        "smem_address(ring->here())",
        WGMMA_DGRAD,
    ),
    Mutant(
        "wgmma_tile.cuh",
        "«mbarrier_wait(&ring->full[ring->stage], ring->parity);»",
        "",
        WGMMA_FPROP,
    ),
    Mutant("wgmma_tile.cuh", "«wgmma_fence();»", "", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "«wgmma_wait<1>();»", "", WGMMA_WGRAD),
    Mutant("wgmma_tile.cuh", "«wgmma_wait<0>();»", "", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "ring->release(«before», ctas);", "ring->stage", WGMMA_WGRAD),
    Mutant("wgmma_tile.cuh", "«add || k > 0»", "add", WGMMA_FPROP),
    Mutant("wgmma_tile.cuh", "start_step(ring, a, b, «false», sums);", "true", WGMMA_FPROP),
    # ---- Hopper: forward and input gradient
    Mutant("wgmma_data.cuh", "«if (!tile.in) tile.pixel0 -= tile_pixels;»", "", WGMMA_FPROP),
    Mutant(
        "wgmma_data.cuh",
        "item >= «p.classes[tile.of_class + 1].first_item»",
        "item + 1",
        WGMMA_DGRAD,
    ),
    Mutant("wgmma_data.cuh", "const int group_channel = «tile.group * depth»;", "0", WGMMA_FPROP),
    Mutant(
        "wgmma_data.cuh", "(part * Tiling::kLanes + «cta * part_rows * slice») *", "0", WGMMA_FPROP
    ),
    Mutant("wgmma_data.cuh", "tile.lane0 + «cta * part_rows»;", "0", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "(part + «cta * part_depths») * 128;", "0", WGMMA_DGRAD),
    Mutant("wgmma_data.cuh", "channel + «cta * part_depths»;", "0", WGMMA_DGRAD),
    Mutant("wgmma_data.cuh", "«(1 << ctas) - 1»;", "1", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "rows.offset + «r * rows.offset_step»", "0", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«rows.tap_step * p.tap_width»,", "rows.tap_step", WGMMA_DGRAD),
    Mutant(
        "wgmma_data.cuh",
        "walk.next()) {\n        const bool over = «walk.r >= rows.taps»;",
        "false",
        WGMMA_DGRAD,
    ),
    Mutant("wgmma_data.cuh", "«lane0 >= p.lanes» || pixel0", "false", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«tma_store_wait_read<1>();»", "", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«named_barrier(barrier, 128);»", "", WGMMA_FPROP),
    Mutant(
        "wgmma_data.cuh", "«named_barrier(barrier, 128);»  // the block is there", "", WGMMA_FPROP
    ),
    Mutant("wgmma_data.cuh", "«fence_proxy_async();»", "", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«tma_store_commit();»", "", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«(*stored)++» % 2", "0", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«first + i < p.lanes» ? to_compute", "true", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "bias[«tile.group * p.lanes» + first", "0", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "+ «half * 8» + in_warp / 4\n", "0", WGMMA_SWAPPED),
    Mutant("wgmma_data.cuh", "(«(chunk ^ pixel % 8)» << 4)", "chunk", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«warp * 2 + matrix % 2»), matrices", "warp * 2", WGMMA_SWAPPED),
    Mutant("wgmma_data.cuh", "c / 8 + «matrix / 2»), matrices", "0", WGMMA_FPROP),
    Mutant(
        "wgmma_data.cuh",
        "const float sum = sums[i][«(j * kColumns + c) / 2» +",
        "c / 2",
        WGMMA_FPROP,
    ),
    Mutant("wgmma_data.cuh", "«pixel0 + pixel >= tile.pixels» ||", "false", WGMMA_DGRAD),
    Mutant("wgmma_data.cuh", "«first >= p.lanes») continue;", "false", WGMMA_DGRAD),
    Mutant("wgmma_data.cuh", "at.p * «of.rows.result_step»", "1", WGMMA_DGRAD),
    Mutant("wgmma_data.cuh", "result_chunk(pixel, at / 4)) + «at % 4»", "0", WGMMA_TF32),
    Mutant("wgmma_data.cuh", "«cluster_sync();»  // the barriers are there", "", WGMMA_FPROP),
    Mutant("wgmma_data.cuh", "«cluster_sync();»  // the other CTA copies", "", WGMMA_FPROP),
    Mutant(
        "wgmma_data.cuh",
        "«if (p.result_tiled && threadIdx.x % 128 == 0) tma_store_wait_read<0>();»",
        "",
        WGMMA_FPROP,
    ),
    Mutant("wgmma_data.cuh", "«give_registers<Tile::kProducerRegisters>();»", "", WGMMA_FPROP),
    Mutant(
        "wgmma_launch.cuh",
        "p.ctas) * «lane_tiles * p.groups»;",
        "1",
        WGMMA_FPROP,
    ),
    Mutant(
        "wgmma_launch.cuh", "weight_map(weight, 64, «p.slice / p.ctas»)", "p.slice", WGMMA_DGRAD
    ),
    Mutant("wgmma_launch.cuh", "classes[«of.taps() > 0 ? i : 0»]", "i", WGMMA_DGRAD),
    # ---- Hopper: weight gradient
    Mutant("wgmma_weight.cuh", "tile.pixel0 = «tile.split * p.share»;", "0", WGMMA_WGRAD),
    Mutant(
        "wgmma_weight.cuh",
        "«advance(&at, kStepPixels, p.taps.rows.count, p.taps.columns.count);»",
        "",
        WGMMA_WGRAD,
    ),
    Mutant("wgmma_weight.cuh", "«pixel += kStepPixels;»", "", WGMMA_WGRAD),
    Mutant("wgmma_weight.cuh", "if (tap < taps && «c < channels») {", "true", WGMMA_WGRAD),
    Mutant("wgmma_weight.cuh", "if («tap < taps» && c", "true", WGMMA_WGRAD),
    Mutant("wgmma_weight.cuh", "= «k < p.outputs» ? sums", "true", WGMMA_WGRAD),
    Mutant("wgmma_weight.cuh", "if («c == padded») {", "c == channels + 8", WGMMA_WGRAD),
    Mutant(
        "wgmma_weight.cuh", "over ? 0 : «walk.s * p.taps.columns.offset_step»", "0", WGMMA_WGRAD
    ),
    Mutant("wgmma_weight.cuh", "tile.group * p.outputs + tile.row0 + «row»;", "0", WGMMA_WGRAD),
    Mutant(
        "wgmma_weight.cuh", "tile.split * p.K + «tile.group * p.outputs» + k;", "0", WGMMA_WGRAD
    ),
    Mutant("wgmma_weight.cuh", "sums[i][4 * j + «2 * half»]", "0", WGMMA_WGRAD),
    Mutant(
        "wgmma_launch.cuh",
        "cut_steps.count, «cut_steps.size * kStepPixels»",
        "cut_steps.size",
        WGMMA_WGRAD,
    ),
    # ---- complex numbers, bias gradient, copies, launches
    Mutant("complex.cuh", "part == 1 && «k % 2 == 0»", "true", COMPLEX),
    Mutant("complex.cuh", "const int part = «(c ^ k) & 1»;", "c & 1", COMPLEX),
    Mutant("complex.cuh", "to_compute(odd[0]) - «to_compute(even[1])»", "0", COMPLEX),
    Mutant(
        "complex.cuh",
        "«if (rest >= static_cast<std::int64_t>(v.K / 2) * v.R * v.S * channels) return;»",
        "",
        COMPLEX,
    ),
    Mutant("bgrad.cuh", "«__syncthreads();»  // all threads' sums are there", "", BGRAD),
    Mutant("bgrad.cuh", "«__syncthreads();»  // the sums of the step before are there", "", BGRAD),
    Mutant("bgrad.cuh", "phase > 0 || «k >= v.K»", "false", BGRAD),
    Mutant("layout.cuh", "«__syncthreads();»  // the tile is there", "", COPIES),
    Mutant("layout.cuh", "«c0 + c >= channels» ||", "false", COPIES),
    Mutant("layout.cuh", "«c0 + c >= channels» ||", "false", COPIES, 1),
    Mutant("layout.cuh", "«i % kAcross * Vec»", "i % kAcross", COPIES),
    Mutant("copies.cuh", "«(by_channels ? s.w : s.c) % kVec == 0» &&", "true", COPIES),
    Mutant("copies.cuh", "«f.h == width * f.w» &&", "true", COPIES),
    Mutant("group_launchers.cuh", "block_count(«Flip ? v.W : v.Q», Tile", "v.Q", DEPTHWISE),
    Mutant("launchers.cuh", "«most + 1 < extent ? most + 1 : extent»", "most", SIMT),
    Mutant("launchers.cuh", "«channels % vector == 0» && s.n", "true", SIMT),
    Mutant(
        "launchers.cuh",
        "«s.n % vector == 0 && s.h % vector == 0 && s.w % vector == 0»",
        "true",
        SIMT,
    ),
    Mutant(
        "launchers.cuh",
        "«s.n % vector == 0 && s.h % vector == 0 && s.w % vector == 0»",
        "true",
        MMA,
    ),
    Mutant("launchers.cuh", "«reinterpret_cast<std::uintptr_t>(data)»", "0", SIMT),
    Mutant("params.cpp", "«n > 1 ? s[0] : 0»", "0", SIMT),
    Mutant("launchers.cuh", "v.groups * «ceil_div(pixels, Any::kM)»", "pixels / Any::kM", SIMT),
]
