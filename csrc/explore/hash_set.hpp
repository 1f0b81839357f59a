// hash_set.hpp -- a set of 64-bit hashes: eight bytes a place, never more than two thirds full.
#pragma once
#include <vector>

#include "world/types.hpp"

namespace pgtbl::inline PGTBL_WORLD::explore {

class hash_set {
 public:
  /// False: it was there already.
  bool insert(u64 hash) {
    if (hash == 0) hash = 1;
    if ((size_ + 1) * 3 > places_.size() * 2) grow();
    return put(hash);
  }
  bool contains(u64 hash) const {
    if (hash == 0) hash = 1;
    if (places_.empty()) return false;
    for (u64 i = hash;; ++i) {
      const u64 at = places_[i & (places_.size() - 1)];
      if (at == hash) return true;
      if (at == 0) return false;
    }
  }
  u64 size() const { return size_; }
  bool operator==(const hash_set& o) const {
    if (size_ != o.size_) return false;
    for (const u64 h : places_)
      if (h != 0 && !o.contains(h)) return false;
    return true;
  }

 private:
  bool put(u64 hash) {
    for (u64 i = hash;; ++i) {
      u64& at = places_[i & (places_.size() - 1)];
      if (at == hash) return false;
      if (at != 0) continue;
      at = hash;
      ++size_;
      return true;
    }
  }
  void grow() {
    std::vector<u64> old(places_.empty() ? 64 : places_.size() * 2);
    old.swap(places_);
    size_ = 0;
    for (const u64 h : old)
      if (h != 0) put(h);
  }
  std::vector<u64> places_;
  u64 size_ = 0;
};

}  // namespace pgtbl::inline PGTBL_WORLD::explore
