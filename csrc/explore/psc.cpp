#include "explore/psc.hpp"

#include <algorithm>

namespace pgtbl::inline PGTBL_WORLD::explore {

namespace {
constexpr u16 none = dense_graph::none;
bool is_fence(const event& e) { return e.kind == op_kind::fence; }
}  // namespace

bool seq_cst_order::acyclic(const dense_graph& g, std::span<const event_clock> hb) {
  find_events(g);
  if (sc_.size() < 2) return true;
  hb_of_.resize(g.size());
  for (u16 i = 0; i < g.size(); ++i) hb_of_[i] = hb[g.position(i)];
  const std::size_t m = sc_.size(), words_of_psc = (m + 63) / 64;
  psc_.assign(m * words_of_psc, 0);
  look_beyond_fences(g);
  if (accesses_) build_relations(g), order_by_relations(g);
  for (std::size_t i = 0; i < m; ++i)
    for (std::size_t j = 0; j < m; ++j)
      if (is_fence(g[sc_[i]]) && is_fence(g[sc_[j]]) &&
          ((i != j && this->hb(sc_[i], sc_[j], g)) || between_fences(i, j)))
        set(psc_.data() + i * words_of_psc, j);
  return !has_cycle();
}

void seq_cst_order::find_events(const dense_graph& g) {
  sc_.clear();
  accesses_ = false;
  for (u16 i = 0; i < g.size(); ++i) {
    if (!g[i].seq_cst()) continue;
    sc_.push_back(i);
    accesses_ |= !is_fence(g[i]);
  }
}

// ---- fences -----------------------------------------------------------------------------------------

void seq_cst_order::look_beyond_fences(const dense_graph& g) {
  constexpr u16 nothing = 0xffff;
  locations_ = g.locations();
  low_.assign(sc_.size() * locations_, nothing);
  high_.assign(sc_.size() * locations_, 0);
  for (std::size_t k = 0; k < sc_.size(); ++k) {
    const u16 f = sc_[k];
    if (!is_fence(g[f])) continue;
    u16 *const low = low_.data() + k * locations_, *const high = high_.data() + k * locations_;
    const event_clock known = hb_of_[f];
    for (u32 t = 0; t < stage::max_actors; ++t) {
      // Of each actor a prefix is before the fence, and a suffix is after it.
      const u16 begin = g.begin(t), end = g.end(t);
      const u16 seen = static_cast<u16>(begin + known[t]);
      for (u16 i = begin; i != end; ++i) {
        const event& e = g[i];
        if (!e.reads && !e.writes) continue;
        const u16 l = g.location_of(i), level = static_cast<u16>(e.level());
        if (i < seen) {
          high[l] = std::max(high[l], level);
        } else if (i != f && hb(f, i, g)) {
          low[l] = std::min(low[l], level);
        }
      }
    }
  }
}

bool seq_cst_order::between_fences(std::size_t i, std::size_t j) const {
  const u16 *const low = low_.data() + i * locations_, *const high = high_.data() + j * locations_;
  for (std::size_t l = 0; l < locations_; ++l)
    if (low[l] < high[l]) return true;
  return false;
}

// ---- accesses ---------------------------------------------------------------------------------------

void seq_cst_order::set_range(word* row, std::size_t from, std::size_t to) const {
  if (from >= to) return;
  const std::size_t a = from / 64, b = (to - 1) / 64;
  const word first = ~word{0} << (from % 64), last = ~word{0} >> (63 - (to - 1) % 64);
  if (a == b) {
    row[a] |= first & last;
    return;
  }
  row[a] |= first;
  for (std::size_t w = a + 1; w < b; ++w) row[w] = ~word{0};
  row[b] |= last;
}

void seq_cst_order::build_relations(const dense_graph& g) {
  const std::size_t n = g.size();
  words_ = (n + 63) / 64;
  hb_.assign(n * words_, 0);
  scb_.assign(n * words_, 0);
  has_scb_.assign(n, 0);
  next_other_.assign(n, none);
  same_first_.assign(g.locations(), none);
  same_next_.assign(n, none);
  for (u32 t = 0; t < stage::max_actors; ++t) {
    for (u16 i = g.end(t); i-- > g.begin(t);) {
      if (i + 1 < g.end(t)) next_other_[i] = g[i + 1].loc != g[i].loc ? i + 1 : next_other_[i + 1];
      if (!g[i].reads && !g[i].writes) continue;
      same_next_[i] = same_first_[g.location_of(i)];
      same_first_[g.location_of(i)] = i;
    }
    // Who knows an event, knows those before it: along both actors the first who knows moves one way.
    for (u32 u = 0; u < stage::max_actors; ++u) {
      u16 first = g.begin(u);
      for (u16 i = g.begin(t); i != g.end(t); ++i) {
        if (u == t) {
          set_range(row(hb_, i), i + 1U, g.end(t));
          continue;
        }
        while (first != g.end(u) && !hb(i, first, g)) ++first;
        set_range(row(hb_, i), first, g.end(u));
      }
    }
  }
}

void seq_cst_order::build_scb(const dense_graph& g, u16 x) {
  if (has_scb_[x] != 0) return;
  has_scb_[x] = 1;
  word* const out = row(scb_, x);
  const event& e = g[x];
  set_range(out, x + 1U, g.end(e.actor));
  // po-other-location ; hb ; po-other-location: the first step of each kind reaches all that later ones do.
  if (const u16 other = next_other_[x]; other != none) {
    for (u32 u = 0; u < stage::max_actors; ++u) {
      u16 y = u == e.actor ? static_cast<u16>(other + 1) : g.begin(u);
      while (y < g.end(u) && !hb(other, y, g)) ++y;
      if (y < g.end(u) && next_other_[y] != none) set_range(out, next_other_[y], g.end(u));
    }
  }
  if (e.loc == 0) return;
  if (!e.reads && !e.writes) return;
  for (u16 y = same_first_[g.location_of(x)]; y != none; y = same_next_[y])
    if (y != x && (hb(x, y, g) || (g[y].writes && g[y].level() > e.level()))) set(out, y);
}

void seq_cst_order::order_by_relations(const dense_graph& g) {
  const std::size_t m = sc_.size(), words_of_psc = (m + 63) / 64;
  for (std::size_t i = 0; i < m; ++i) {
    const u16 a = sc_[i];
    reach_.assign(words_, 0);
    build_scb(g, a);
    for (std::size_t w = 0; w < words_; ++w) reach_[w] |= row(scb_, a)[w];
    if (is_fence(g[a]))
      for (u16 x = 0; x < g.size(); ++x) {
        if (!test(row(hb_, a), x)) continue;
        build_scb(g, x);
        for (std::size_t w = 0; w < words_; ++w) reach_[w] |= row(scb_, x)[w];
      }
    for (std::size_t j = 0; j < m; ++j) {
      const u16 b = sc_[j];
      bool ordered = test(reach_.data(), b);
      if (!ordered && is_fence(g[b]))
        for (u16 x = 0; !ordered && x < g.size(); ++x)
          ordered = test(reach_.data(), x) && hb(x, b, g) && x != b;
      if (ordered) set(psc_.data() + i * words_of_psc, j);
    }
  }
}

bool seq_cst_order::has_cycle() {
  const std::size_t m = sc_.size(), words = (m + 63) / 64;
  for (std::size_t k = 0; k < m; ++k)
    for (std::size_t i = 0; i < m; ++i)
      if (test(psc_.data() + i * words, k))
        for (std::size_t w = 0; w < words; ++w) psc_[i * words + w] |= psc_[k * words + w];
  for (std::size_t i = 0; i < m; ++i)
    if (test(psc_.data() + i * words, i)) return true;
  return false;
}

}  // namespace pgtbl::inline PGTBL_WORLD::explore
