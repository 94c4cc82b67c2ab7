// mbarriers and copies of boxes (hopper_host.h). A load's destination is undefined until it lands:
// it is poisoned at issue, and written when nothing else can run, or at random. A store reads at
// its wait, the last moment at which it may.
#include <memory>
#include <vector>

#include "hopper_host.h"

namespace emu {

struct Store {
  convext::cuda::MapSpec map;
  const char* from;
  int at[2];
  int group;
  Site site;
};

namespace {

std::string at_line(const char* what, Site site) {
  return format("%s (%s:%d)", what, base_name(site.file), site.line);
}

// ---- mbarrier -----------------------------------------------------------------------------------

using Clock = Block::Clock;
void join(Clock& into, const Clock& from) {
  for (size_t i = 0; i < into.size(); ++i) into[i] = std::max(into[i], from[i]);
}
int index_of(const Block& b, size_t at) {
  for (size_t i = 0; i < b.mbarriers.size(); ++i)
    if (b.mbarriers[i].at == at) return static_cast<int>(i);
  return -1;
}
struct Found {
  Mbarrier* state;
  Block::Phases* phases;
  int agent;  // who stands for copies that signal it
};
// The barrier at that place of CTA `cta`, for a use that must come after the initialisation.
Found find_mbarrier(size_t at, int cta, bool from_afar, const char* what, Site site) {
  Block& b = *block;
  if (at % 8) fail(at_line(what, site) + ": an mbarrier not aligned to 8 bytes");
  char* p = b.smem_of(cta) + at;
  auto* state = reinterpret_cast<Mbarrier*>(p);
  const int index = index_of(b, p - b.smem);
  if (index < 0 || !state->initialised())
    fail(at_line(what, site) + ": the mbarrier was never initialised, or overwritten");
  Block::Phases& phases = b.mbarriers[index];
  if (b.ctas[cta].done == b.n)
    fail(at_line(what, site) + format(": CTA %d of the cluster has returned", cta));
  if (from_afar && b.fibers[phases.initialiser].init_fence <= phases.initialised)
    fail(at_line(what, site) +
         ": the mbarrier's initialisation was not fenced (fence_mbarrier_init)");
  shared_access(p, 8, false, site, what);  // uses do not race with each other
  return {state, &phases, index % most_agents};
}
void release_to(Block::Phases& phases) {
  Block& b = *block;
  Clock& mine = b.known[b.cur->warp];
  mine[b.cur->warp] = ++b.time;
  join(phases.arrived, mine);
}
void settle(const Found& barrier) {
  Mbarrier& m = *barrier.state;
  if (m.pending == 0 && m.bytes() == 0) {
    m.pending = m.expected, m.set(0, m.phase() ^ 1);
    barrier.phases->released = barrier.phases->arrived;
  }
  ++block->progress;
}

}  // namespace

void init_mbarrier(std::uint64_t* barrier, int arrivals, Site site) {
  Block& b = *block;
  const size_t at = shared_address(barrier);
  if (at % 8) fail(at_line("mbarrier.init", site) + ": not aligned to 8 bytes");
  if (arrivals < 1 || arrivals > 0x7fff) fail(at_line("mbarrier.init", site) + ": bad count");
  b.keep_reads();
  shared_access(barrier, 8, true, site, "mbarrier.init");
  const size_t place = reinterpret_cast<char*>(barrier) - b.smem;
  int index = index_of(b, place);
  if (index < 0) index = static_cast<int>(b.mbarriers.size()), b.mbarriers.emplace_back();
  b.mbarriers[index] = {place, {}, {}, b.cur->id, b.time};
  auto& m = *reinterpret_cast<Mbarrier*>(barrier);
  m.pending = m.expected = static_cast<int16_t>(arrivals), m.set(0, 0);
}

void arrive(std::uint64_t* barrier, int cta, int bytes, const char* what, Site site) {
  const int own = block->cur->cta;
  const Found found = find_mbarrier(shared_address(barrier), cta < 0 ? own : cta,
                                    cta >= 0 && cta != own, what, site);
  Mbarrier& m = *found.state;
  if (m.pending <= 0) fail(at_line(what, site) + ": more arrivals than the phase expects");
  if (bytes < 0 || m.bytes() + bytes >= 1 << 20)
    fail(at_line(what, site) + ": a barrier counts up to 2**20 - 1 bytes");
  release_to(*found.phases);
  m.set(m.bytes() + bytes, m.phase());
  --m.pending;
  settle(found);
}

void wait_for(std::uint64_t* barrier, int parity, Site site) {
  Block& b = *block;
  if (parity != 0 && parity != 1) fail(at_line("mbarrier.try_wait", site) + ": parity is 0 or 1");
  const int own = b.cur->cta;
  const Found found = find_mbarrier(shared_address(barrier), own, false, "mbarrier.try_wait", site);
  while (found.state->phase() == parity) {
    b.cur->polled = found.state, b.cur->parity = parity;
    wait_as(State::poll, "mbarrier_wait", site);
  }
  // Others may have been initialised since.
  const int index = index_of(b, reinterpret_cast<char*>(barrier) - b.smem);
  join(b.known[b.cur->warp], b.mbarriers[index].released);
}

// ---- loads --------------------------------------------------------------------------------------

namespace {

using convext::cuda::MapSpec;

std::int64_t element_of(const MapSpec& map) { return convext::bytes_of(map.dtype); }

const MapSpec& spec_of(const TensorMap* map, int rank, bool im2col, const char* what, Site site) {
  check_map(map, what, site);
  const MapSpec& spec = map->spec;
  if (spec.rank != rank || spec.im2col != im2col)
    fail(at_line(what, site) +
         format(": the map is of rank %d%s", spec.rank, spec.im2col ? ", by pixels" : ""));
  if (element_of(spec) != 2 && element_of(spec) != 4)
    fail(at_line(what, site) + ": elements of 2 or 4 bytes are emulated");
  // Of narrower ones it is not documented where they lie.
  if ((im2col ? spec.channels : spec.box[0]) * element_of(spec) != spec.swizzle)
    fail(at_line(what, site) + ": rows as wide as the swizzle are emulated");
  return spec;
}
// Of a byte at that place.
size_t swizzled(size_t at, int swizzle) {
  return at ^ (at / 128 % static_cast<size_t>(swizzle / 16)) * 16;
}
void check_place(size_t at, size_t bytes, int swizzle, const char* what, Site site) {
  const size_t period = static_cast<size_t>(swizzle) * 8;
  if (at % period)
    fail(at_line(what, site) +
         format(": shared byte %zu is not aligned to the swizzle's %zu bytes", at, period));
  if (at + bytes > block->used)
    fail(at_line(what, site) +
         format(": shared bytes %zu to %zu of %zu", at, at + bytes - 1, block->used));
}
// Elements c[0] to c[0] + row - 1 of the row at the other coordinates; zeros outside.
void read_row(const MapSpec& map, const std::int64_t* c, int row, char* out) {
  const std::int64_t element = element_of(map);
  const auto* p = static_cast<const char*>(map.base);
  for (int d = 1; d < map.rank; ++d) {
    if (c[d] < 0 || c[d] >= map.size[d]) return;
    p += c[d] * map.stride[d];
  }
  const std::int64_t first = std::max<std::int64_t>(c[0], 0);
  const std::int64_t last = std::min<std::int64_t>(c[0] + row, map.size[0]);
  if (first >= last) return;
  const auto bytes = static_cast<size_t>((last - first) * element);
  global_access(p + first * element, bytes, false);
  std::memcpy(out + (first - c[0]) * element, p + first * element, bytes);
}

// Poisons and marks the destinations.
void start_load(void* to, const MapSpec& map, std::uint64_t* barrier, std::vector<char> bytes,
                int ctas, const char* what, Site site) {
  Block& b = *block;
  Fiber& f = *b.cur;
  const size_t at = shared_address(to), barrier_at = shared_address(barrier);
  check_place(at, bytes.size(), map.swizzle, what, site);
  const auto shared = std::make_shared<const std::vector<char>>(std::move(bytes));
  if (ctas == 0) ctas = 1 << f.cta;
  for (int cta = 0; cta < b.cluster; ++cta) {
    if (!(ctas >> cta & 1)) continue;
    find_mbarrier(barrier_at, cta, true, what, site);
    const size_t from = cta * shared_step + at;
    const std::uint64_t epoch = epoch_for(b, f, cta);
    for (size_t i = from / 16; i < (from + shared->size()) / 16; ++i) {
      Chunk& c = b.chunks[i];
      const auto where = [&] {
        return at_line(what, site) +
               format(" writes shared byte %zu of CTA %d", i * 16 % shared_step, cta);
      };
      if (const char* objection = async_objection(b, f, epoch, c)) fail(where() + objection);
      for (size_t g = i * 8; c.used >= b.first_epoch && c.used >= c.landed && g < i * 8 + 8; ++g) {
        const Shadow& s = b.shadow[g];
        if (s.pending) fail(where() + " while a cp.async into it is in flight");
        if (s.write_epoch >= b.first_epoch && s.write_epoch >= c.landed &&
            !ordered(b, f, epoch, s.write_epoch, s.writer, s.write_sync))
          fail(where() + ", a race with the write by " + who(b, s.writer));
        if (s.write_epoch >= b.first_epoch && s.write_epoch >= c.landed &&
            b.fibers[s.writer].proxy_fence <= s.write_epoch)
          fail(where() + " over what " + who(b, s.writer) + " wrote without fence_proxy_async");
        if (s.read_epoch >= b.first_epoch && s.read_epoch >= c.landed &&
            !ordered_after_reads(b, f, epoch, s))
          fail(where() + ", a race with the read by " + who(b, s.reader));
      }
      c.pending = true;
    }
    fill_poison(b.smem + from, shared->size());
    b.flying.push_back({cta, at, barrier_at, map.swizzle, shared, what, site});
  }
}

}  // namespace

void check_map(const TensorMap* map, const char* what, Site site) {
  if (reinterpret_cast<std::uintptr_t>(map) % 64 != 0 || map->mark != TensorMap::kMark)
    fail(at_line(what, site) + ": the pointer is not to an encoded map");
}

void load_box(void* to, const TensorMap* map, std::uint64_t* barrier, const int* coordinates,
              int rank, int ctas, const char* what, Site site) {
  const MapSpec& spec = spec_of(map, rank, false, what, site);
  const auto row = static_cast<size_t>(spec.box[0] * element_of(spec));
  const int planes = rank > 2 ? spec.box[2] : 1;
  std::vector<char> bytes(row * static_cast<size_t>(spec.box[1] * planes));
  char* out = bytes.data();
  for (int k = 0; k < planes; ++k) {
    for (int j = 0; j < spec.box[1]; ++j, out += row) {
      const std::int64_t c[] = {coordinates[0], std::int64_t{coordinates[1]} + j,
                                rank > 2 ? std::int64_t{coordinates[2]} + k : 0};
      read_row(spec, c, spec.box[0], out);
    }
  }
  start_load(to, spec, barrier, std::move(bytes), ctas, what, site);
}

void load_pixels(void* to, const TensorMap* map, std::uint64_t* barrier, int c, int w, int h, int n,
                 int offset_w, int offset_h, Site site) {
  const char* const what = "cp.async.bulk.tensor.4d.im2col";
  const MapSpec& spec = spec_of(map, 4, true, what, site);
  for (int offset : {offset_w, offset_h})
    if (offset < 0 || offset > convext::cuda::kMostMapOffset)
      fail(at_line(what, site) + format(": the offset %d is not 0 to 255", offset));
  std::int64_t at[2] = {w, h}, image = n;
  const auto last = [&](int i) { return spec.size[i + 1] - 1 + spec.upper[i]; };
  for (int i = 0; i < 2; ++i)
    if (at[i] < spec.lower[i] || at[i] > last(i))
      fail(at_line(what, site) +
           format(": the first pixel (%d, %d) lies outside of the box", w, h));
  if (n < 0 || n >= spec.size[3])
    fail(at_line(what, site) +
         format(": image %d of %lld", n, static_cast<long long>(spec.size[3])));
  const auto row = static_cast<size_t>(spec.channels * element_of(spec));
  std::vector<char> bytes(row * static_cast<size_t>(spec.pixels));
  for (int i = 0; i < spec.pixels; ++i) {
    const std::int64_t from[] = {c, at[0] + offset_w, at[1] + offset_h, image};
    read_row(spec, from, spec.channels, bytes.data() + static_cast<size_t>(i) * row);
    if ((at[0] += spec.step[0]) <= last(0)) continue;
    at[0] = spec.lower[0];
    if ((at[1] += spec.step[1]) <= last(1)) continue;
    at[1] = spec.lower[1];
    ++image;
  }
  start_load(to, spec, barrier, std::move(bytes), 0, what, site);
}

// Called by the scheduler.
void land(const Flight& copy) {
  Block& b = *block;
  const std::vector<char>& bytes = *copy.bytes;
  char* smem = b.smem_of(copy.cta);
  const size_t first = smem + copy.at - b.smem;
  const int index = index_of(b, smem + copy.barrier - b.smem);
  auto* state = reinterpret_cast<Mbarrier*>(smem + copy.barrier);
  if (index < 0 || !state->initialised())
    throw Error(at_line(copy.what, copy.site) + ": its mbarrier was overwritten");
  const int agent = index % most_agents;
  const Found found{state, &b.mbarriers[index], agent};
  ++b.time;
  for (size_t i = 0; i < bytes.size(); i += 16)
    std::memcpy(smem + swizzled(copy.at + i, copy.swizzle), &bytes[i], 16);
  for (size_t i = first / 16; i < (first + bytes.size()) / 16; ++i) {
    Chunk& c = b.chunks[i];
    c.pending = false, c.landed = b.time, c.agent = static_cast<int16_t>(agent), c.warps = 0;
  }
  found.phases->arrived[most_warps + agent] = ++b.time;
  state->set(state->bytes() - static_cast<int>(bytes.size()), state->phase());
  settle(found);
}

// ---- stores -------------------------------------------------------------------------------------

namespace {

size_t box_bytes(const MapSpec& map) {
  return static_cast<size_t>(map.box[0] * map.box[1] * element_of(map));
}
void count_reading(const Store& store, int change) {
  Block& b = *block;
  const size_t first = store.from - b.smem;
  for (size_t i = first / 16; i < (first + box_bytes(store.map)) / 16; ++i)
    b.chunks[i].reading = static_cast<std::uint8_t>(b.chunks[i].reading + change);
}

}  // namespace

void store_box(const TensorMap* map, const void* from, int c0, int c1, Site site) {
  const char* const what = "cp.async.bulk.tensor.2d.global";
  Block& b = *block;
  Fiber& f = *b.cur;
  const MapSpec& spec = spec_of(map, 2, false, what, site);
  check_place(shared_address(from), box_bytes(spec), spec.swizzle, what, site);
  b.keep_reads();
  shared_access(from, box_bytes(spec), false, site, what);
  const size_t first = static_cast<const char*>(from) - b.smem;
  for (size_t g = first / 2; g < (first + box_bytes(spec)) / 2; ++g) {
    const Shadow& s = b.shadow[g];
    if (s.write_epoch >= b.first_epoch && s.write_epoch > b.chunks[g / 8].landed &&
        b.fibers[s.writer].proxy_fence <= s.write_epoch)
      fail(at_line(what, site) + " reads what " + who(b, s.writer) +
           " wrote without fence_proxy_async");
  }
  auto store = std::make_shared<Store>(
      Store{spec, static_cast<const char*>(from), {c0, c1}, f.store_group, site});
  count_reading(*store, 1);
  f.stores.push_back(std::move(store));
}

void wait_for_stores(int keep) {
  Block& b = *block;
  Fiber& f = *b.cur;
  std::erase_if(f.stores, [&](const std::shared_ptr<Store>& store) {
    const MapSpec& map = store->map;
    if (store->group >= f.store_group - keep) return false;
    count_reading(*store, -1);
    shared_access(store->from, box_bytes(map), false, store->site, "a bulk store");
    const std::int64_t element = element_of(map), row = map.box[0] * element;
    const size_t first = shared_address(store->from);
    const char* smem = b.smem_of(f.cta);
    for (int j = 0; j < map.box[1]; ++j) {
      const std::int64_t line = std::int64_t{store->at[1]} + j;
      if (line < 0 || line >= map.size[1]) continue;
      char* to = static_cast<char*>(const_cast<void*>(map.base)) + line * map.stride[1];
      for (std::int64_t i = 0; i < row; i += element) {
        const std::int64_t column = store->at[0] + i / element;
        if (column < 0 || column >= map.size[0]) continue;
        const size_t at = first + static_cast<size_t>(j * row + i);
        global_access(to + column * element, static_cast<size_t>(element), true);
        std::memcpy(to + column * element, smem + swizzled(at, map.swizzle),
                    static_cast<size_t>(element));
      }
    }
    return true;
  });
}

}  // namespace emu
