#include "check/check.hpp"

#if defined(PGTBL_ARCH_ARM)
#include <unordered_map>
#endif

#include "mm/coherent.hpp"
#include "mm/huge_pmd.hpp"
#include "mm/secondary_mmu.hpp"
#include "mm/zap.hpp"

namespace pgtbl::inline PGTBL_WORLD {

namespace {

std::string num(u64 n) { return std::to_string(n); }

/// What an entry translates to.
std::string told(u64 entry) {
  if ((entry & bit_present) == 0) return "nothing";
  return "frame " + num(entry_to_pfn(entry)) + ((entry & bit_write) != 0 ? ", writable" : ", read-only");
}

/// What a scan of every page table and page cache found, frame by frame.
class audit {
 public:
  audit(cpu& self, machine& m)
      : self_(self),
        machine_(m),
        ram_(m.ram),
        found_(m.ram.frames()),
        slots_(m.ram.frames() * tables_per_page) {}

  std::vector<std::string> run() {
    if (!quiet()) return breaches_;  // waiting for RCU would never end
    machine_.rcu.barrier(self_.rcu);
    // The end of a batch may be the end of a page's last table, and queue the page.
    if (tables_by_arch) machine_.rcu.barrier(self_.rcu);
    for (mapping* f : machine_.reg.files)
      if (f != nullptr) scan_file(*f);
    for (mm* x : machine_.reg.mms)
      if (x != nullptr) scan_mm(*x);
    compare_frames();
#if defined(PGTBL_ARCH_TABLES)
    audit_arch();
#endif
#if defined(PGTBL_ARCH_ARM)
    if (const u32 used = self_.arch->lines.used(); used != lines_)
      breach("A-9",
             num(used - lines_) + " lines of the cache are left of pages that are not mapped any more");
#endif
    scan_tlbs();
    if (machine_.breaches.any()) breaches_.push_back(machine_.breaches.text());
    return breaches_;
  }

 private:
  struct found {
    u32 ptes = 0;    // PTEs that map it
    u32 pmds = 0;    // PMDs that map it as the head of a huge page
    u32 cached = 0;  // page-cache references
  };
  struct sums {
    u64 table_bytes = 0;
    i64 rss[rss_kinds] = {};
  };

  void breach(const char* invariant, const std::string& text) {
    if (breaches_.size() < 100) breaches_.push_back(std::string(invariant) + ": " + text);
  }

  bool quiet() {
    bool all = true;
    for (u32 i = 0; i < machine_.cpus.n.load(acquire); ++i) {
      const cpu& c = *machine_.cpus.cpus[i];
      if (c.tid.load(relaxed) == 0 || !c.rcu.in_section()) continue;
      breach("G-10", "CPU " + num(i) + " (thread " + num(c.tid.load(relaxed)) +
                         ") is inside a read section, " + num(c.rcu.nesting()) + " deep");
      all = false;
    }
    return all;
  }

  // ---------------------------------------------------------------- page caches

  void scan_file(mapping& f) {
    u32 huge = 0;
    self_.rcu.read_lock();
    f.disk.for_each(0, page_cache::max_index,
                    [&](const cache_item& item) { ++found_[item.entry.pfn()].cached; });
    f.pages.for_each(0, page_cache::max_index, [&](const cache_item& item) {
      if (item.entry.is_retry()) {
        breach("G-19", "file " + num(f.id) + ": page " + num(item.index) + " still holds a retry marker");
        return;
      }
      const pfn_t head = ram_.head_of(item.entry.pfn());
      const frame& h = ram_.of(head);
      found_[head].cached += item.entry.is_huge() ? static_cast<u32>(pages_per_huge) : 1;
      huge += item.entry.is_huge() && f.regular() ? 1 : 0;
      const pgoff_t index = h.index + (item.entry.pfn() - head);
      if (h.state.load(relaxed) != frame_state::data || h.file.load(relaxed) != &f || index != item.index)
        breach("G-20", "file " + num(f.id) + ": page " + num(item.index) + " is frame " + num(head) +
                           ", which is a " + to_string(h.state.load(relaxed)) + " with index " + num(index));
      if ((h.order == huge_order) != item.entry.is_huge())
        breach("G-20", "file " + num(f.id) + ": page " + num(item.index) +
                           ": the entry and the folio differ in size");
    });
    self_.rcu.read_unlock();
    const u32 counted = f.nr_thps.load(relaxed), writers = f.writers.load(relaxed);
    if (counted != huge)
      breach("G-48", "file " + num(f.id) + " counts " + num(counted) + " huge pages, and has " + num(huge));
    if (writers != 0 && huge != 0)
      breach("G-48", "file " + num(f.id) + " is open for writing " + num(writers) + " times, and has " +
                         num(huge) + " huge pages");
  }

  // ---------------------------------------------------------------- page tables

  /// Whether the slot leads to a table of that level that nobody else points to.
  bool enter(mm& m, pmd_t e, u8 level, va_t va) {
    const pgtable_t table = e.pgtable();
    const pfn_t t = pfn_of(table);
    const std::string where = "mm " + num(m.id) + ", address " + num(va) + ": ";
    if (t == 0 || t >= ram_.frames()) {
      breach("G-4", where + "a slot points to frame " + num(t) + ", which does not exist");
      return false;
    }
    const auto& f = life_of(self_, table);
    if (f.state.load(relaxed) != frame_state::table_live || f.level != level) {
      breach("G-4", where + "a slot points to frame " + num(t) + " as a table of level " + num(level) +
                        ", which is a " + to_string(f.state.load(relaxed)) + " of level " + num(f.level));
      return false;
    }
    if (++slots(table) > 1) {
      breach("G-5", where + "frame " + num(t) + " is the table of " + num(slots(table)) + " slots");
      return false;
    }
    if (ram_.of(t).ptl.is_locked())
      breach("G-39", where + "the lock of the table in frame " + num(t) + " is held");
    return true;
  }

  void scan_mm(mm& m) {
    ++slots(m.root);
    sums s;
#if defined(PGTBL_ARCH_ARM)
    aliases_.clear();
#endif
    if (!m.exiting()) scan_table(m, m.root, root_level, 0, s);
#if defined(PGTBL_ARCH_ARM)
    for (const auto& [pfn, seen] : aliases_)
      if (seen.mapped > 1 && seen.cached != 0)
        breach("A-9", "mm " + num(m.id) + " maps frame " + num(pfn) + " at " + num(seen.mapped) +
                          " addresses, and " + num(seen.cached) + " of them may be cached");
#endif
    const i64 bytes = m.pgtables_bytes.load(relaxed);
    if (bytes != static_cast<i64>(s.table_bytes))
      breach("G-23", "mm " + num(m.id) + " counts " + std::to_string(bytes) +
                         " bytes of page tables, and has " + num(s.table_bytes));
    static constexpr const char* kinds[] = {"file", "anonymous", "shmem"};
    for (unsigned k = 0; k < rss_kinds; ++k) {
      const i64 counted = m.rss.get(static_cast<rss_kind>(k));
      if (counted != s.rss[k])
        breach("G-24", "mm " + num(m.id) + " counts " + std::to_string(counted) + " " + kinds[k] +
                           " pages, and has " + std::to_string(s.rss[k]));
    }
    for (const secondary_mmu* d = m.secondaries.load(acquire); d != nullptr; d = d->next)
      scan_secondary(m, *d);
    if (m.notifiers_open.load(relaxed) != 0)
      breach("G-40",
             "mm " + num(m.id) + " has " + num(m.notifiers_open.load(relaxed)) + " notifier ranges open");
  }

  /// What a secondary MMU remembers is what the program has there.
  void scan_secondary(mm& m, const secondary_mmu& d) {
    const mmap_read_guard lock(self_, m);
    d.each([&](va_t va, pfn_t pfn, bool writable) {
      const pmd_ref p = pmd_offset(self_, m, va);
      const pmd_t pmd = p ? p.get() : pmd_t{};
      u64 e = pmd.v;
      pfn_t now = 0;
      if (pmd.huge()) {
        now = pmd.pfn() + index_at(va, page_shift);
      } else if (pmd.table()) {
        e = ram_.phys.entry(pmd.pgtable(), index_at(va, page_shift)).load(acquire);
        now = pte_t{e}.present() ? pte_t{e}.pfn() : 0;
      }
      if (now == pfn && (!writable || (e & bit_write) != 0)) return;
      breach("G-16",
             "secondary MMU " + num(d.number) + " of mm " + num(m.id) + " translates address " + num(va) +
                 " to frame " + num(pfn) + (writable ? ", writable" : "") + ", and the program has " +
                 (now == 0 ? "nothing" : "frame " + num(now) + ((e & bit_write) != 0 ? "" : ", read-only")) +
                 " there");
    });
  }

  void scan_table(mm& m, pgtable_t table, u8 level, va_t base, sums& s) {
    static constexpr unsigned shift[] = {0, page_shift, pmd_shift, pud_shift, pgd_shift};
    for (u64 i = 0; i < ptrs_at(level); ++i) {
      const u64 e = ram_.phys.entries(table)[i].load(acquire);
      const va_t va = base + (i << shift[level]);
      if (e == 0) continue;
      if (level == 1) {
        scan_pte(m, pte_t{e}, va, s);
      } else if (level == 2 && pmd_t{e}.huge()) {
        scan_huge(m, pmd_t{e}, va, s);
      } else if (!pmd_t{e}.table()) {
        breach("G-4", "mm " + num(m.id) + ", address " + num(va) + ": bad entry " + num(e) + " at level " +
                          num(level));
      } else if (enter(m, pmd_t{e}, level_below(level), va)) {
        s.table_bytes += table_bytes(level_below(level));
        scan_table(m, pmd_t{e}.pgtable(), level_below(level), va, s);
      }
    }
    if (level == 2) scan_deposits(m, table, base, s);
  }

#if defined(PGTBL_ARCH_POWERPC)
  /// G-28: behind each huge PMD, and only there, a table of its own; nothing in it but slots of hash entries, and counted.
  void scan_deposits(mm& m, pgtable_t pmds, va_t base, sums& s) {
    entry_word* const slot = ram_.phys.entries(pmds);
    for (u64 i = 0; i < ptrs_at(2); ++i) {
      const pmd_t e{slot[i].load(acquire)};
      const table_addr at = deposit_behind(slot[i]).peek();
      const auto where = [&] {
        return "mm " + num(m.id) + ", address " + num(base + (i << pmd_shift)) + ": ";
      };
      if (e.huge() != (at != 0))
        breach("G-28", where() + (e.huge() ? "no table is deposited behind the huge PMD"
                                           : "a table is deposited behind a PMD that is not huge"));
      if (at == 0) continue;
      const pgtable_t t{at >> pgtable_shift};
      s.table_bytes += pte_table_bytes;
      if (life_of(self_, t).state.load(relaxed) != frame_state::table_live || ++slots(t) > 1)
        breach("G-28",
               where() + "frame " + num(pfn_of(t)) + " is deposited, and is no table, or somebody else's");
      for (table_addr a = at; a < at + (u64{1} << pgtable_shift); a += sizeof(u64)) {
        const u64 word = machine_.arch.entry(a).load(acquire);
        if (word == 0 || word == deposit::noted) continue;
        breach("G-28", where() + "the deposited table in frame " + num(pfn_of(t)) + " is not empty");
        break;
      }
    }
  }
#else
  /// G-28: a PMD page has as many deposited tables as huge PMDs that need one; all empty, and counted.
  void scan_deposits(mm& m, pgtable_t table, va_t base, sums& s) {
    u64 needed = 0, there = 0;
    for (u64 i = 0; i < ptrs_at(2); ++i) {
      const pmd_t e{ram_.phys.entries(table)[i].load(acquire)};
      if (e.huge() && needs_deposit(self_, e.pfn())) ++needed;
    }
    const std::string where = "mm " + num(m.id) + ", PMD page of address " + num(base) + ": ";
    pgtable_t t = next_deposited(self_, table, true);
    for (; t != pgtable_t{} && there <= ptrs_at(2); t = next_deposited(self_, t, false)) {
      ++there;
      s.table_bytes += pte_table_bytes;
      if (life_of(self_, t).state.load(relaxed) != frame_state::table_live || ++slots(t) > 1) {
        breach("G-28",
               where + "frame " + num(pfn_of(t)) + " is deposited, and is no table, or somebody else's");
        return;
      }
      // Where the list goes through the tables, the first entry is its.
      for (u64 i = geometry.deposits_in_tables ? 1 : 0; i < ptrs_per_table; ++i)
        if (ram_.phys.entries(t)[i].load(acquire) != 0) {
          breach("G-28", where + "the deposited table in frame " + num(pfn_of(t)) + " is not empty");
          break;
        }
    }
    if (there != needed)
      breach("G-28",
             where + num(there) + " tables are deposited for " + num(needed) + " huge PMDs that need one");
  }
#endif

  void scan_pte(mm& m, pte_t e, va_t va, sums& s) {
    if (e.migration())
      breach("G-22", "mm " + num(m.id) + ", address " + num(va) + ": a migration entry is left");
    if (!e.present()) return;
    const pfn_t pfn = e.pfn();
    if (pfn == memory::zero_page) {
      if (e.write())
        breach("G-13", "mm " + num(m.id) + ", address " + num(va) + ": the zero page is writable");
      return;
    }
    if (pfn == 0 || pfn >= ram_.frames()) {
      breach("G-20", "mm " + num(m.id) + ", address " + num(va) + ": a PTE maps frame " + num(pfn) +
                         ", which does not exist");
      return;
    }
    const pfn_t head = ram_.head_of(pfn);
    ++found_[pfn].ptes;
#if defined(PGTBL_ARCH_ARM)
    check_line(m, va, pfn, (e.v & bit_uncached) != 0);
    if (const vma* v = m.vmas.find(va); v != nullptr && v->shared() && v->file != nullptr) {
      alias& a = aliases_[pfn];
      ++a.mapped;
      a.cached += (e.v & bit_uncached) == 0 ? 1 : 0;
    }
#endif
    ++s.rss[static_cast<unsigned>(rss_of_head(head))];
    check_cached(m, va, pfn, head);
    check_exclusive(m, va, pfn, e.write());
  }

#if defined(PGTBL_ARCH_ARM)
  /// What the cache has of an address is of the frame that is mapped there, and nothing where it is mapped uncached.
  void check_line(mm& m, va_t va, pfn_t pfn, bool uncached) {
    const pfn_t frame = self_.arch->lines.frame_at(m.id, va);
    if (frame == 0) return;
    ++lines_;
    if (frame != pfn || uncached)
      breach("A-9", "the cache has a line of address " + num(va) + " of mm " + num(m.id) + " for frame " +
                        num(frame) + ", where frame " + num(pfn) + " is mapped" +
                        (uncached ? " uncached" : ""));
  }
#endif

  /// G-13: a private page that can be written, or that is marked exclusive, is mapped once.
  void check_exclusive(mm& m, va_t va, pfn_t pfn, bool write) {
    const frame& f = ram_.of(pfn);
    if (rss_of_head(ram_.head_of(pfn)) != rss_kind::anon) return;
    const bool exclusive = (f.flags.load(relaxed) & pg_anon_exclusive) != 0;
    const std::string where = "mm " + num(m.id) + ", address " + num(va) + ": ";
    if (write && !exclusive) breach("G-13", where + "a private page that others may have is writable");
    if (exclusive && f.mapcount.load(relaxed) > 1)
      breach("G-13", where + "frame " + num(pfn) + " is marked exclusive, and mapped " +
                         num(f.mapcount.load(relaxed)) + " times");
  }

  void scan_huge(mm& m, pmd_t e, va_t va, sums& s) {
    if (ram_.is_huge_zero(e.pfn())) {
      if (e.write())
        breach("G-13", "mm " + num(m.id) + ", address " + num(va) + ": the huge zero page is writable");
      return;
    }
    if ((e.v & bit_present) == 0 && (e.v & prot_mask & ~bit_nx) != bit_protnone && e.write())
      breach("G-4", "mm " + num(m.id) + ", address " + num(va) + ": a split was left half-way");
    ++found_[e.pfn()].pmds;
    s.rss[static_cast<unsigned>(rss_of_head(e.pfn()))] += static_cast<i64>(pages_per_huge);
    check_cached(m, va, e.pfn(), e.pfn());
  }

  rss_kind rss_of_head(pfn_t head) { return rss_of(self_, head); }

  /// G-20: what a file's VMA maps is in the file at that index; a private page belongs to a private VMA.
  void check_cached(mm& m, va_t va, pfn_t pfn, pfn_t head) {
    const std::string where = "mm " + num(m.id) + ", address " + num(va) + ": ";
    const frame& h = ram_.of(head);
    if (h.state.load(relaxed) != frame_state::data) {
      breach("G-20", where + "maps frame " + num(pfn) + ", which is a " + to_string(h.state.load(relaxed)));
      return;
    }
    const vma* v = m.vmas.find(va);
    if (v == nullptr) {
      breach("G-20", where + "frame " + num(pfn) + " is mapped outside of every VMA");
      return;
    }
    if ((h.flags.load(relaxed) & pg_anon) != 0) {
      if (v->shared()) breach("G-20", where + "a private page is mapped in a shared VMA");
      if (v->anon_vma.load(relaxed) == nullptr)
        breach("G-20", where + "a private page is mapped, and anon_vma is not set");
      if (v->file != nullptr && v->pgoff_of(va) >= v->file->size_pages())
        breach("G-20", where + "a private copy is left behind the end of the file");
      return;
    }
    self_.rcu.read_lock();
    const bool there = v->file != nullptr && v->file->pages.load(v->pgoff_of(va)).is_page() &&
                       v->file->pages.load(v->pgoff_of(va)).pfn_at(v->pgoff_of(va)) == pfn;
    self_.rcu.read_unlock();
    if (!there)
      breach("G-20",
             where + "maps frame " + num(pfn) + ", which is not in the file at page " + num(v->pgoff_of(va)));
  }

  // ---------------------------------------------------------------- frames against what was found

  void compare_frames() {
    for (pfn_t p = 1; p < ram_.frames(); ++p) {
      const frame& f = ram_.of(p);
      const found& x = found_[p];
      const u32 tables = slots_of_page(p);
      if ((f.flags.load(relaxed) & pg_reserved) != 0 || ram_.is_zero(p))
        continue;  // nobody counts the zero pages
      switch (f.state.load(relaxed)) {
        case frame_state::data: compare_page(p, f, x); break;
        case frame_state::table_live:
          // Of a page that may hold several, each table on its own, and with it who else has a part (audit_arch).
          if (tables == 0 && !shares_its_page(f) && (f.flags.load(relaxed) & pg_tail) == 0)
            breach("G-11", "the table in frame " + num(p) + " (level " + num(f.level) +
                               ") is leaked: no slot points to it");
          break;
        case frame_state::table_detached:
        case frame_state::table_queued:
          breach("G-11", "frame " + num(p) + " is still a " + to_string(f.state.load(relaxed)) +
                             " after a grace period");
          break;
        default:
          if (x.ptes + x.pmds + x.cached != 0)
            breach("G-20", "frame " + num(p) + " is free, and is mapped or cached");
      }
    }
  }

  static bool shares_its_page([[maybe_unused]] const frame& f) {
#if defined(PGTBL_ARCH_TABLES)
    return in_parts(f.level);
#else
    return false;
#endif
  }

#if defined(PGTBL_ARCH_TABLES)
  /// A-n: what the architecture says of its pages of tables, and each table of a page that has several.
  void audit_arch() {
    std::string lines;
    std::vector<const arch_context*> contexts;
    for (const mm* x : machine_.reg.mms)
      if (x != nullptr) contexts.push_back(&x->context);
    machine_.arch.audit(contexts, lines);
    for (std::size_t at = 0; at < lines.size();) {
      const std::size_t end = lines.find('\n', at);
      if (breaches_.size() < 100) breaches_.push_back(lines.substr(at, end - at));
      at = end + 1;
    }
    for (u64 i = tables_per_page; i < ram_.frames() * tables_per_page; ++i) {
      const pgtable_t t{i};
      const frame_state s = machine_.arch.life(t).state.load(relaxed);
      const std::string which = "the table in frame " + num(pfn_of(t)) + ", part " + num(i % tables_per_page);
      if (s == frame_state::table_live && slots(t) == 0)
        breach("G-11", which + ", is leaked: no slot points to it");
      if (s == frame_state::table_detached || (s == frame_state::table_queued && tables_per_page == 1))
        breach("G-11", which + ", is still a " + to_string(s) + " after a grace period");
    }
  }
#endif

  void compare_page(pfn_t p, const frame& f, const found& x) {
    if (f.mapcount.load(relaxed) != x.ptes)
      breach("G-25", "frame " + num(p) + " counts " + num(f.mapcount.load(relaxed)) +
                         " PTEs that map it; there are " + num(x.ptes));
    const u32 flags = f.flags.load(relaxed);
    if ((flags & pg_tail) != 0) return;
    if (f.entire_mapcount.load(relaxed) != x.pmds)
      breach("G-25", "folio " + num(p) + " counts " + num(f.entire_mapcount.load(relaxed)) +
                         " PMDs that map it; there are " + num(x.pmds));
    u64 refs = x.cached + x.pmds + known_pins(f);
    for (u64 i = 0; i < 1ULL << f.order; ++i) refs += found_[p + i].ptes;
    if (f.refcount.load(relaxed) != refs)
      breach("G-26", "folio " + num(p) + " (order " + num(f.order) + ") has " +
                         num(f.refcount.load(relaxed)) +
                         " references; the page cache and the mappings make " + num(refs));
    if ((flags & pg_locked) != 0) breach("G-39", "folio " + num(p) + " is locked");
  }

  // ---------------------------------------------------------------- TLBs

  /// G-14 at rest: what a CPU remembers is what the tables say.
  void scan_tlbs() {
    for (u32 i = 0; i < machine_.cpus.n.load(acquire); ++i) {
      cpu& c = *machine_.cpus.cpus[i];
      if (c.loaded == nullptr || c.mailbox.pending.load(acquire) != 0) continue;
      for (const translation& t : c.tlb.small) compare_translation(c, t, page_shift);
      for (const translation& t : c.tlb.huge) compare_translation(c, t, pmd_shift);
    }
  }

  void compare_translation(cpu& c, const translation& t, unsigned shift) {
    if (t.key >> 48 != c.tlb.epoch || t.key == 0) return;
    const va_t va = ((t.key & ((1ULL << 48) - 1)) - 1) << shift;
    u64 now = 0;
    const irq_guard no_interrupts(self_.irq);  // what covers a walk that holds no lock
    if (const pmd_ref p = pmd_offset(self_, *c.loaded, va)) {
      const pmd_t pmd = p.get();
      if (shift == pmd_shift)
        now = pmd.huge() ? pmd.v : 0;
      else if (pmd.table())
        now = ram_.phys.entries(pmd.pgtable())[index_at(va, page_shift)].load(acquire);
    }
    const bool same = (now & pfn_field) == (t.entry & pfn_field) && (now & bit_present) != 0;
    const bool wider = (t.entry & bit_write) != 0 && (now & bit_write) == 0;
    if (!same || wider)
      breach("G-14", "CPU " + num(c.id) + " remembers " + told(t.entry) + " at address " + num(va) +
                         " of mm " + num(c.loaded->id) + "; the tables say " + told(now));
  }

  /// How many slots point to the table; and to those of the page.
  u32& slots(pgtable_t t) { return slots_[static_cast<u64>(t)]; }
  u32 slots_of_page(pfn_t p) const {
    u32 n = 0;
    for (u64 i = 0; i < tables_per_page; ++i) n += slots_[static_cast<u64>(table_at(p)) + i];
    return n;
  }

  cpu& self_;
  machine& machine_;
  memory& ram_;
  std::vector<found> found_;
  std::vector<u32> slots_;  // by table
#if defined(PGTBL_ARCH_ARM)
  struct alias {
    u32 mapped = 0, cached = 0;
  };
  std::unordered_map<pfn_t, alias> aliases_;  // of one mm: its shared mappings of a file's page
  u32 lines_ = 0;                             // of the cache, of addresses at which something is mapped
#endif
  std::vector<std::string> breaches_;
};

}  // namespace

std::vector<std::string> check_machine(cpu& self, machine& m) { return audit(self, m).run(); }

}  // namespace pgtbl::inline PGTBL_WORLD
