//! Copies of the records of a thread's visits to profiles (`thread/visit.rs`).

use crate::scope::ReadMemory;
use crate::thread::visit::{VisitCopy, WORDS};

/// How many visits of a thread are copied, at most. A thread has several at a time if profiles are nested.
const MOST: usize = 8;

/// Innermost visit first.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Visits {
    visits: [VisitCopy; MOST],
    count: usize,
}

impl Visits {
    pub(crate) fn iter(&self) -> std::slice::Iter<'_, VisitCopy> {
        self.visits[..self.count].iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.count == 0
    }

    pub(super) fn clear(&mut self) {
        self.count = 0;
    }

    /// Copies the visits of a thread. `word` is the address of the thread's pointer to the record of its innermost
    /// visit. Neither allocates nor panics. If the thread runs meanwhile, the copy may be nonsense.
    pub(crate) fn fill(&mut self, word: u64, memory: &impl ReadMemory) {
        self.clear();
        let Some(pointer) = Pointer::read(word, memory) else { return };
        let mut record = pointer;
        while record != 0 && self.count < MOST {
            let mut bytes = [0; WORDS * 8];
            if memory.read(record, &mut bytes) < bytes.len() {
                return;
            }
            let mut words = [0; WORDS];
            for (word, bytes) in words.iter_mut().zip(bytes.as_chunks().0) {
                *word = u64::from_ne_bytes(*bytes);
            }
            let visit = VisitCopy::new(words);
            self.visits[self.count] = visit;
            self.count += 1;
            record = visit.outer;
        }
    }
}

struct Pointer;

impl Pointer {
    fn read(address: u64, memory: &impl ReadMemory) -> Option<u64> {
        let mut bytes = [0; size_of::<usize>()];
        (memory.read(address, &mut bytes) == bytes.len()).then(|| usize::from_ne_bytes(bytes) as u64)
    }
}
