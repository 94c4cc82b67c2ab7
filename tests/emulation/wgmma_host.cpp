// wgmma, stmatrix and setmaxnreg (hopper_host.h). Each warp of a warpgroup multiplies its own 16
// rows, so that the 32 lanes meeting are enough. Operands are read and sums written at the wait,
// the last moment at which they may; sums hold poison in between.
#include <memory>
#include <vector>

#include "hopper_host.h"
#include "ptx_host.h"

namespace emu {

namespace {

// Sums in flight, by row; those of one array that wgmma adds to several times are one.
struct Sums {
  std::array<float*, 32> lanes;
  int columns, in_flight = 0;
  std::vector<float> value;

  // value <-> lanes: lane l has rows l / 4 and l / 4 + 8 of columns 2 (l % 4) and the next.
  template <class F>
  void for_each(F&& f) {
    for (int l = 0; l < 32; ++l)
      for (int e = 0; e < columns / 2; ++e)
        f(lanes[l][e], value[(l / 4 + e / 2 % 2 * 8) * columns + e / 4 * 8 + l % 4 * 2 + e % 2]);
  }
};

// What the warps of a warpgroup have in common: they come to it one after the other.
struct Shared {
  WgmmaKind kind;
  std::uint64_t a_matrix, b_matrix;
  std::vector<float> b;  // [depth][column] once a warp has read it
  int readers = 0;
};

}  // namespace

struct Wgmma {
  std::shared_ptr<Sums> sums;
  std::shared_ptr<Shared> shared;
  std::array<std::array<unsigned, 4>, 32> a;
  bool accumulate;
  int group;
  Site site;
};

namespace {

// ---- operands -----------------------------------------------------------------------------------

// 16 bytes. How many elements.
int to_floats(const char* from, WgmmaKind::Type type, float* to) {
  if (type == WgmmaKind::tf32) {
    std::memcpy(to, from, 16);
    for (int i = 0; i < 4; ++i) to[i] = from_tf32(std::bit_cast<unsigned>(to[i]));
    return 4;
  }
  std::uint16_t half[8];
  std::uint32_t bits[8];
  std::memcpy(half, from, 16);
  if (type == WgmmaKind::bfloat16) {
    for (int i = 0; i < 8; ++i) bits[i] = std::uint32_t{half[i]} << 16;
    std::memcpy(to, bits, sizeof bits);
    return 8;
  }
  // A float's exponent is made of a half's by a product, which serves its subnormals too.
  float value[8];
  for (int i = 0; i < 8; ++i) bits[i] = (half[i] & 0x7fffu) << 13;
  std::memcpy(value, bits, sizeof bits);
  for (int i = 0; i < 8; ++i) value[i] *= 0x1p112f;
  std::memcpy(bits, value, sizeof bits);
  for (int i = 0; i < 8; ++i) {
    const std::uint32_t special = (half[i] & 0x7c00u) == 0x7c00u ? 0x7f800000u : 0u;
    bits[i] |= special | (half[i] & 0x8000u) << 16;
  }
  std::memcpy(to, bits, sizeof bits);
  return 8;
}

// A matrix in shared memory (csrc/cuda/matrix_descriptor.h).
struct Matrix {
  size_t start, leading, stride;
  int swizzle;
  explicit Matrix(std::uint64_t descriptor)
      : start((descriptor & 0x3fff) << 4),
        leading((descriptor >> 16 & 0x3fff) << 4),
        stride((descriptor >> 32 & 0x3fff) << 4) {
    const auto mode = descriptor >> 62;
    swizzle = mode == 1 ? 128 : mode == 2 ? 64 : mode == 3 ? 32 : 0;
  }
  // Where 16 bytes lie that are, as bytes go, `at` from the start on.
  size_t swizzled(size_t at) const {
    return at ^ (at / 128 % static_cast<size_t>(swizzle / 16)) * 16;
  }
};

// Whether `f`, whose warp is at wgmma_wait, may read the chunk; true if a bulk copy wrote it last,
// so that nothing changes it that is not seen.
bool check_read(Fiber& f, size_t at, Site site) {
  Block& b = *block;
  const auto where = [&] {
    return format("wgmma (%s:%d) reads shared byte %zu", base_name(site.file), site.line, at);
  };
  if (at + 16 > b.used) fail(where() + format(" of %zu", b.used));
  const size_t from = f.cta * shared_step + at;
  Chunk& c = b.chunks[from / 16];
  if (c.pending) fail(where() + " while a copy into it is in flight (missing wait?)");
  if (!ordered_after_copy(b, f, c))
    fail(where() + ", a race with a copy into it, whose barrier it did not wait for");
  const bool copied = c.landed >= b.first_epoch && c.landed > c.written;
  for (size_t g = from / 2; !copied && g < from / 2 + 8; ++g) {
    const Shadow& s = b.shadow[g];
    if (s.pending) fail(where() + " while a cp.async into it is in flight");
    if (s.write_epoch >= b.first_epoch && s.write_epoch > c.landed) {
      if (!ordered(b, f, b.ctas[f.cta].epoch, s.write_epoch, s.writer, s.write_sync))
        fail(where() + ", a race with the write by " + who(b, s.writer));
      if (b.fibers[s.writer].proxy_fence <= s.write_epoch)
        fail(where() + ", which " + who(b, s.writer) + " wrote without fence_proxy_async");
    } else if (c.landed < b.first_epoch) {
      if (instrumented || reinterpret_cast<const std::uint16_t*>(b.smem)[g] == poison16)
        fail(where() + ", never written");
    }
  }
  b.wgmma_reads[from / 16 * most_warps + f.warp] = b.time;
  c.warps |= 1u << f.warp;
  return copied;
}

// Rows `first` to first + rows - 1 as [depth][row]. True if all of it came by bulk copies.
bool read_matrix(const Matrix& m, int major, WgmmaKind::Type type, int first, int rows, Fiber& f,
                 Site site, bool check_alone, float* out) {
  const char* smem = block->smem_of(f.cta);
  bool copied = true;
  const auto read = [&](size_t place, float* to) {
    const size_t at = m.swizzled(place);
    copied &= check_read(f, at, site);
    return check_alone ? 0 : to_floats(smem + at, type, to);
  };
  const auto swizzle = static_cast<size_t>(m.swizzle);
  if (major == 0) {  // depth adjacent: rows of the matrix are rows of memory
    for (int i = 0; i < rows; ++i) {
      const auto row = static_cast<size_t>(first + i);
      const size_t place = m.start + row / 8 * m.stride + row % 8 * swizzle;
      float line[16];
      int depth = read(place, line);
      depth += read(place + 16, line + depth);
      for (int k = 0; k < depth; ++k) out[k * rows + i] = line[k];
    }
    return copied;
  }
  for (size_t k = 0; k < 16; ++k) {
    for (int i = 0; i < rows; i += 8) {
      const auto row = static_cast<size_t>(first + i);
      const size_t place = m.start + row / (swizzle / 2) * m.leading + k / 8 * m.stride +
                           k % 8 * swizzle + row % (swizzle / 2) * 2;
      read(place, out + static_cast<int>(k) * rows + i);
    }
  }
  return copied;
}

// ---- products -----------------------------------------------------------------------------------

// c += a * b: c is [16][N], a [depth][16], b [depth][N].
template <int N>
void multiply(const float* __restrict a, const float* __restrict b, float* __restrict c,
              int depth) {
  for (int i = 0; i < 16; ++i) {
    float* __restrict row = c + i * N;
    for (int k = 0; k < depth; k += 4) {
      const float a0 = a[k * 16 + i], a1 = a[(k + 1) * 16 + i], a2 = a[(k + 2) * 16 + i],
                  a3 = a[(k + 3) * 16 + i];
      const float* __restrict b0 = b + k * N;
      const float* __restrict b1 = b0 + N;
      const float* __restrict b2 = b1 + N;
      const float* __restrict b3 = b2 + N;
      for (int j = 0; j < N; ++j) row[j] += a0 * b0[j] + a1 * b1[j] + a2 * b2[j] + a3 * b3[j];
    }
  }
}

void run(const Wgmma& w, Fiber& leader) {
  Shared& shared = *w.shared;
  const WgmmaKind& kind = shared.kind;
  const int row0 = leader.warp % block->warps % 4 * 16;
  const int depth = kind.type == WgmmaKind::tf32 ? 8 : 16;
  float a[16 * 16];
  if (kind.a_in_registers) {
    for (int l = 0; l < 32; ++l)
      for (int e = 0; e < 8; ++e) {
        const auto half = static_cast<std::uint16_t>(w.a[l][e / 2] >> e % 2 * 16);
        const int row = l / 4 + (e / 2 & 1) * 8, k = l % 4 * 2 + (e & 1) + e / 4 * 8;
        a[k * 16 + row] = kind.type == WgmmaKind::bfloat16 ? from_bf16(half) : from_f16(half);
      }
  } else {
    read_matrix(Matrix(shared.a_matrix), kind.a_major, kind.type, row0, 16, leader, w.site, false,
                a);
  }
  // What another warp has read serves this one, as long as copies alone write there: plain stores
  // go unseen in programs that are not instrumented.
  const Matrix matrix(shared.b_matrix);
  const auto read_b = [&](bool check_alone) {
    return read_matrix(matrix, kind.b_major, kind.type, 0, kind.columns, leader, w.site,
                       check_alone, shared.b.data());
  };
  if (shared.b.empty()) {
    shared.b.resize(static_cast<size_t>(depth * kind.columns));
    read_b(false);
  } else if (!read_b(true)) {
    read_b(false);
  }
  std::vector<float>& sums = w.sums->value;
  if (!w.accumulate) std::fill(sums.begin(), sums.end(), 0.0f);
  switch (kind.columns) {
    case 64: multiply<64>(a, shared.b.data(), sums.data(), depth); break;
    case 128: multiply<128>(a, shared.b.data(), sums.data(), depth); break;
    case 192: multiply<192>(a, shared.b.data(), sums.data(), depth); break;
    default: multiply<256>(a, shared.b.data(), sums.data(), depth); break;
  }
  if (++shared.readers == 4) shared.b = {};
}

// All groups but the last `keep`.
void land(Fiber& leader, int keep) {
  auto& queue = leader.wgmmas;
  size_t done = 0;
  for (; done < queue.size() && queue[done]->group < leader.wgmma_group - keep; ++done) {
    const Wgmma& w = *queue[done];
    run(w, leader);
    if (--w.sums->in_flight == 0)
      w.sums->for_each([](float& lane, const float& value) { lane = value; });
  }
  queue.erase(queue.begin(), queue.begin() + static_cast<std::ptrdiff_t>(done));
}

std::string at_line(const char* what, Site site) {
  return format("%s (%s:%d)", what, base_name(site.file), site.line);
}

// ---- what a warpgroup does in common ------------------------------------------------------------

// The warpgroup's wgmma of that number: of the first warp to come there, or compared with it.
std::shared_ptr<Shared> enter_log(Fiber& leader, const WgmmaKind& kind,
                                  const WgmmaArgument& argument, Site site) {
  Block& b = *block;
  if (b.n % 128 != 0) fail(at_line("wgmma", site) + ": the CTA is not of whole warpgroups");
  auto& log = b.wgmma_log[leader.warp / 4];
  const size_t number = leader.wgmma_count++;
  if (number == log.size()) {
    auto shared = std::make_shared<Shared>();
    shared->kind = kind, shared->a_matrix = argument.a_matrix, shared->b_matrix = argument.b_matrix;
    log.push_back(shared);
    return shared;
  }
  auto shared = std::static_pointer_cast<Shared>(log[number]);
  if (shared->a_matrix != argument.a_matrix || shared->b_matrix != argument.b_matrix ||
      !(shared->kind == kind))
    fail(at_line("wgmma", site) + ": the warps of the warpgroup differ in it");
  return shared;
}

}  // namespace

// Called when all CTAs have returned.
void check_warpgroups(const Block& b) {
  for (size_t i = 0; b.n % 128 == 0 && i + 3 < b.registers.size(); i += 4) {
    for (size_t w = i + 1; w < i + 4; ++w) {
      if (b.fibers[w * 32].wgmma_count != b.fibers[i * 32].wgmma_count)
        throw Error(
            format("warps %zu and %zu of a warpgroup differ in how often they call wgmma", i, w));
      if (b.registers[w] != b.registers[i])
        throw Error(
            format("setmaxnreg: warps %zu and %zu of a warpgroup differ in registers", i, w));
    }
  }
}

void start_wgmma(const WgmmaKind& kind, WgmmaArgument argument, Site site) {
  warp_meet("wgmma", ~0u, site, argument, [&](WgmmaArgument** all, Fiber* lanes) {
    Fiber& leader = lanes[0];
    if (!leader.wgmma_fenced) fail(at_line("wgmma", site) + " without wgmma_fence before it");
    for (int l = 0; l < 32; ++l)
      if (all[l]->a_matrix != argument.a_matrix || all[l]->b_matrix != argument.b_matrix ||
          all[l]->accumulate != argument.accumulate)
        fail(at_line("wgmma", site) + ": the lanes differ in their descriptors");
    if (Matrix(argument.b_matrix).swizzle == 0 ||
        (!kind.a_in_registers && Matrix(argument.a_matrix).swizzle == 0))
      fail(at_line("wgmma", site) + ": a descriptor without a swizzle");
    block->keep_reads();
    auto w = std::make_shared<Wgmma>();
    w->shared = enter_log(leader, kind, argument, site);
    w->accumulate = argument.accumulate, w->group = leader.wgmma_group, w->site = site;
    for (int l = 0; kind.a_in_registers && l < 32; ++l) std::copy_n(all[l]->a, 4, w->a[l].begin());
    for (const auto& other : leader.wgmmas) {
      if (other->sums->lanes[0] != all[0]->d) continue;
      if (other->sums->columns != kind.columns)
        fail(at_line("wgmma", site) + ": sums in flight are used under another shape");
      w->sums = other->sums;
    }
    if (!w->sums) {
      w->sums = std::make_shared<Sums>();
      Sums& sums = *w->sums;
      sums.columns = kind.columns;
      sums.value.resize(static_cast<size_t>(16 * kind.columns));
      for (int l = 0; l < 32; ++l) sums.lanes[l] = all[l]->d;
      sums.for_each([](float& lane, float& value) { value = lane; });
      for (float* d : sums.lanes) fill_poison(d, sizeof(float) * (kind.columns / 2));
    }
    ++w->sums->in_flight;
    leader.wgmmas.push_back(std::move(w));
  });
}

void fence_wgmma(Site site) {
  int none = 0;
  warp_meet("wgmma.fence", ~0u, site, none,
            [](int**, Fiber* lanes) { lanes[0].wgmma_fenced = true; });
}
void commit_wgmma(Site site) {
  int none = 0;
  warp_meet("wgmma.commit_group", ~0u, site, none,
            [](int**, Fiber* lanes) { ++lanes[0].wgmma_group; });
}
void wait_for_wgmma(int keep, Site site) {
  int none = 0;
  warp_meet("wgmma.wait_group", ~0u, site, none, [&](int**, Fiber* lanes) {
    land(lanes[0], keep);
    lanes[0].wgmma_fenced = false;
  });
}

// ---- setmaxnreg ---------------------------------------------------------------------------------

void change_registers(int registers, bool give, Site site) {
  const char* const what = give ? "setmaxnreg.dec" : "setmaxnreg.inc";
  struct Argument {
    bool done;
  } argument{false};
  for (;;) {
    warp_meet(what, ~0u, site, argument, [&](Argument** all, Fiber* lanes) {
      Block& b = *block;
      int& mine = b.registers[lanes[0].warp];
      int& free = b.ctas[lanes[0].cta].registers;
      if (b.n % 128 != 0) fail(at_line(what, site) + ": the CTA is not of whole warpgroups");
      if (give ? registers > mine : registers < mine)
        fail(at_line(what, site) + format(": %d registers, the warp has %d", registers, mine));
      const int more = (registers - mine) * 32;
      if (more > free) {
        for (int l = 0; l < 32; ++l) lanes[l].registers_wanted = more;
        return;
      }
      free -= more, mine = registers;
      for (int l = 0; l < 32; ++l) all[l]->done = true;
    });
    if (argument.done) return;
    block->cur->polled = nullptr;
    wait_as(State::poll, what, site);
  }
}

// ---- stmatrix -----------------------------------------------------------------------------------

void stmatrix(const char* what, void* row, const unsigned (&r)[4], bool transposed, Site site) {
  struct Argument {
    const unsigned* r;
    char* row;
  } argument{r, static_cast<char*>(row)};
  warp_meet(what, ~0u, site, argument, [&](Argument** all, Fiber* lanes) {
    for (int l = 0; l < 32; ++l) {
      std::uint16_t line[8];
      for (int i = 0; i < 8; ++i) {
        // Element i of the row, or the other way round.
        const int x = transposed ? i : l % 8, y = transposed ? l % 8 : i;
        line[i] = static_cast<std::uint16_t>(all[x * 4 + y / 2]->r[l / 8] >> y % 2 * 16);
      }
      if (shared_address(all[l]->row) % 16)
        fail(at_line(what, site) + ": row address not a multiple of 16");
      shared_access(all[l]->row, 16, true, site, what, &lanes[l]);
      std::memcpy(all[l]->row, line, 16);
    }
  });
}

}  // namespace emu
