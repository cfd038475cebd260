//! The timers of nodes and futures: an indexed 4-ary heap. A pure data structure.
//!
//! Invariants:
//! 1. `heap[entries[i].at].1 == i` for every entry `i` that is in the heap.
//! 2. No element of the heap is earlier than its parent, `(n - 1) / 4`.
//! 3. A place is reused with another version, so that a stale [`Place`] never names another's timer.

#![allow(clippy::cast_possible_truncation)] // four billion timers do not fit in memory

use crate::time::NEVER;

const FREE: u32 = u32::MAX;
const ARITY: usize = 4;

/// Where a timer is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    index: u32,
    version: u32,
}

#[cfg(feature = "testing")]
impl Place {
    /// Where no timer is.
    pub(super) const NONE: Self = Self { index: u32::MAX, version: 0 };
}

/// Timers by deadline; 48 bytes for each with a target of 24.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    /// Deadline and entry: what a comparison needs lies together.
    heap: Vec<(u64, u32)>,
    entries: Vec<Entry<T>>,
    free: Vec<u32>,
}

#[derive(Debug)]
struct Entry<T> {
    target: Option<T>,
    /// The position in the heap; `FREE` if not there.
    at: u32,
    version: u32,
}

impl<T> Queue<T> {
    pub(crate) const fn new() -> Self {
        Self { heap: Vec::new(), entries: Vec::new(), free: Vec::new() }
    }

    /// The earliest deadline.
    pub(crate) fn earliest(&self) -> u64 {
        self.heap.first().map_or(NEVER, |first| first.0)
    }

    #[cfg(timebox_loom)]
    pub(crate) fn len(&self) -> usize {
        self.heap.len()
    }

    pub(crate) fn insert(&mut self, deadline: u64, target: T) -> Place {
        let index = self.free.pop().unwrap_or_else(|| {
            self.entries.push(Entry { target: None, at: FREE, version: 0 });
            (self.entries.len() - 1) as u32
        });
        let at = self.heap.len();
        self.heap.push((deadline, index));
        let entry = &mut self.entries[index as usize];
        entry.target = Some(target);
        entry.at = at as u32;
        let version = entry.version;
        // Most come later than all before.
        if at > 0 && deadline < self.heap[(at - 1) / ARITY].0 {
            self.up(at);
        }
        Place { index, version }
    }

    /// Takes a timer out; `None` if it was taken out before.
    pub(crate) fn remove(&mut self, place: Place) -> Option<T> {
        let at = self.find(place)?;
        let last = self.heap.pop()?;
        if at < self.heap.len() {
            let removed = std::mem::replace(&mut self.heap[at], last);
            if last.0 < removed.0 {
                self.up(at);
            } else {
                self.down(at);
            }
        }
        let entry = &mut self.entries[place.index as usize];
        entry.at = FREE;
        entry.version = entry.version.wrapping_add(1);
        self.free.push(place.index);
        entry.target.take()
    }

    /// The target of a timer that is still there.
    pub(crate) fn target(&mut self, place: Place) -> Option<&mut T> {
        self.find(place)?;
        self.entries[place.index as usize].target.as_mut()
    }

    /// Takes out a timer that is due.
    pub(crate) fn pop_due(&mut self, now: u64) -> Option<T> {
        let &(deadline, index) = self.heap.first()?;
        if deadline > now {
            return None;
        }
        let version = self.entries[index as usize].version;
        self.remove(Place { index, version })
    }

    fn find(&self, place: Place) -> Option<usize> {
        let entry = self.entries.get(place.index as usize)?;
        (entry.version == place.version && entry.at != FREE).then_some(entry.at as usize)
    }

    fn put(&mut self, at: usize, element: (u64, u32)) {
        self.heap[at] = element;
        self.entries[element.1 as usize].at = at as u32;
    }

    fn up(&mut self, mut at: usize) {
        let element = self.heap[at];
        while at > 0 {
            let parent = (at - 1) / ARITY;
            if self.heap[parent].0 <= element.0 {
                break;
            }
            self.put(at, self.heap[parent]);
            at = parent;
        }
        self.put(at, element);
    }

    fn down(&mut self, mut at: usize) {
        let element = self.heap[at];
        loop {
            let first = at * ARITY + 1;
            let children = first..self.heap.len().min(first + ARITY);
            let Some(least) = children.min_by_key(|&child| self.heap[child].0) else { break };
            if self.heap[least].0 >= element.0 {
                break;
            }
            self.put(at, self.heap[least]);
            at = least;
        }
        self.put(at, element);
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_sorted_map_under_random_use() {
        let mut queue = Queue::new();
        let mut model: BTreeMap<(u64, u64), Place> = BTreeMap::new();
        let mut seed = 0x9E37_79B9_7F4A_7C15_u64;
        let mut random = move || {
            seed ^= seed << 13;
            seed ^= seed >> 7;
            seed ^= seed << 17;
            seed
        };
        for n in 0..if cfg!(miri) { 500 } else { 20_000_u64 } {
            match random() % 5 {
                0..=2 => {
                    let deadline = random() % 1000;
                    model.insert((deadline, n), queue.insert(deadline, n));
                }
                3 if !model.is_empty() => {
                    let nth = (random() % model.len() as u64) as usize;
                    let (&key, &place) = model.iter().nth(nth).unwrap();
                    model.remove(&key);
                    assert_eq!(queue.target(place), Some(&mut key.1.clone()));
                    assert_eq!(queue.remove(place), Some(key.1));
                    assert_eq!(queue.remove(place), None, "a place is good once");
                }
                _ => {
                    let now = random() % 200;
                    while let Some(n) = queue.pop_due(now) {
                        let key = model.keys().find(|key| key.1 == n).copied().unwrap();
                        assert_eq!(key.0, model.keys().next().unwrap().0, "the earliest first");
                        assert!(key.0 <= now);
                        model.remove(&key);
                    }
                }
            }
            assert_eq!(queue.earliest(), model.keys().next().map_or(NEVER, |key| key.0));
        }
    }

    #[test]
    fn a_timer_of_a_future_takes_at_most_64_bytes() {
        let entry = size_of::<Entry<super::super::Target>>() + size_of::<(u64, u32)>();
        assert!(entry <= 56, "{entry}");
    }
}
