//! A place where one thread leaves a value, for the first thread that takes it.
//!
//! Invariants:
//! 1. The value is in the place while the phase is not `EMPTY`. After the change to `EMPTY`, the value stays there
//!    until the thread that made the change has read it out.
//! 2. Only two threads touch the value: the thread that fills the place, and the thread that has changed the phase from
//!    `FULL` to `EMPTY` or `HELD`. After the change to `HELD`, the thread touches the value only until it changes the
//!    phase again. The phase is `FULL` for one filling at a time, so only one thread at a time has made the change from
//!    `FULL`.
//! 3. Each filling has a number of its own, so an old ticket takes nothing. The numbers repeat after 2^59 fillings. At
//!    one filling each ten nanoseconds, that takes 180 years.

use std::mem::MaybeUninit;

use super::primitive::{AtomicU64, Ordering, UnsafeCell, mutant};

/// The phases, in the lowest bits of the word.
const EMPTY: u64 = 0;
const FULL: u64 = 1;
/// A thread uses the value in `hold`. The value stays in its place.
const HELD: u64 = 2;
/// A thread uses the value in `hold`. Meanwhile another thread has tried to take the value, and got nothing.
const MISSED: u64 = 3;
const PHASE: u64 = 3;
/// One filling: the bits above [`Ticket::ROOM`] count fillings.
const STEP: u64 = Ticket::ROOM + 1;

pub(crate) struct Handoff<T> {
    word: AtomicU64,
    value: UnsafeCell<MaybeUninit<T>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Ticket(u64);

impl Ticket {
    /// These bits of a ticket's number are zero. Whoever keeps the number may use the bits for something else.
    pub(crate) const ROOM: u64 = 31;

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn number(self) -> u64 {
        self.0
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) fn from_number(number: u64) -> Self {
        Self(number & !Self::ROOM)
    }

    /// The low 32 bits of the filling's number. They repeat only after 2^32 fillings.
    #[cfg_attr(not(debug_assertions), inline(always))]
    #[allow(clippy::cast_possible_truncation)]
    pub(crate) fn short(self) -> u32 {
        (self.0 / STEP) as u32
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn word(self, phase: u64) -> u64 {
        self.0 | phase
    }

    #[cfg_attr(not(debug_assertions), inline(always))]
    fn after(self) -> u64 {
        self.0.wrapping_add(STEP)
    }
}

// SAFETY: invariant 2: one thread at a time touches the value, as with a mutex.
unsafe impl<T: Send> Sync for Handoff<T> {}

impl<T> Handoff<T> {
    pub(crate) fn new() -> Self {
        Self { word: AtomicU64::new(EMPTY), value: UnsafeCell::new(MaybeUninit::uninit()) }
    }

    /// Fills the place.
    ///
    /// # Safety
    ///
    /// Nobody else fills the place during this call. If the place has held a value before, that value was taken out by
    /// a call that happens before this one.
    #[cfg_attr(not(debug_assertions), inline(always))]
    pub(crate) unsafe fn put(&self, value: T) -> Ticket {
        // Relaxed: the last change of the word happens before this call.
        let word = self.word.load(Ordering::Relaxed);
        debug_assert_eq!(word & PHASE, EMPTY);
        // SAFETY: invariant 2, by the contract.
        self.value.with_mut(|place| unsafe { (*place).write(value) });
        let ticket = Ticket(word);
        // Release: pairs with the Acquire in `take`, `hold` and `ticket`.
        self.word.store(ticket.word(FULL), Ordering::Release);
        ticket
    }

    /// Takes the value out. `None`: the value was taken already, or another thread is using it in [`hold`](Self::hold).
    /// In the second case the value stays in the place, and that `hold` returns `None`, so its thread learns of this
    /// call.
    #[inline]
    pub(crate) fn take(&self, ticket: Ticket) -> Option<T> {
        if mutant!(PlainTake) {
            if self.word.load(Ordering::Acquire) != ticket.word(FULL) {
                return None;
            }
            self.word.store(ticket.after(), Ordering::Relaxed);
            // SAFETY: none: the model is to find this fault.
            return Some(self.value.with_mut(|place| unsafe { (*place).assume_init_read() }));
        }
        loop {
            let (full, held) = (ticket.word(FULL), ticket.word(HELD));
            // Acquire: pairs with the Release in `put` and `hold`.
            match self.word.compare_exchange(full, ticket.after(), Ordering::Acquire, Ordering::Relaxed) {
                // SAFETY: invariants 1 and 2.
                Ok(_) => return Some(self.value.with_mut(|place| unsafe { (*place).assume_init_read() })),
                Err(seen) if seen == held => {
                    if mutant!(SilentMiss) {
                        return None;
                    }
                    // Relaxed: the mark says only that a thread came, and publishes no other data.
                    let told = self.word.compare_exchange(
                        held,
                        ticket.word(MISSED),
                        Ordering::Relaxed,
                        Ordering::Relaxed,
                    );
                    if told.is_ok() {
                        return None;
                    }
                }
                Err(_) => return None,
            }
        }
    }

    /// Calls `f` with the value, which stays in the place. Only one thread at a time may call this. `None` in two
    /// cases:
    /// - The value was taken before. `f` was not called.
    /// - Another thread came to take the value while `f` ran, and left without the value.
    pub(crate) fn hold<R>(&self, ticket: Ticket, f: impl FnOnce(&mut T) -> R) -> Option<R> {
        let (full, held) = (ticket.word(FULL), ticket.word(HELD));
        // Acquire: pairs with the Release in `put`, and with the Releases of an earlier `hold`.
        self.word.compare_exchange(full, held, Ordering::Acquire, Ordering::Relaxed).ok()?;
        // SAFETY: invariants 1 and 2.
        let result = self.value.with_mut(|place| f(unsafe { (*place).assume_init_mut() }));
        // Release: pairs with the Acquire in `take`, and with the Acquire in a later `hold`.
        let undisturbed =
            self.word.compare_exchange(held, full, Ordering::Release, Ordering::Relaxed).is_ok();
        if undisturbed {
            return Some(result);
        }
        // The word is `MISSED`, which only this thread changes. Release: pairs with the Acquire in `take` and `hold`.
        self.word.store(full, Ordering::Release);
        None
    }

    /// The ticket of the value in the place; `None` if there is no value, or if the place is `MISSED`.
    #[inline]
    pub(crate) fn ticket(&self) -> Option<Ticket> {
        // Acquire: pairs with the Release in `put`, so that this thread sees all writes from before the place was
        // filled.
        let word = self.word.load(Ordering::Acquire);
        matches!(word & PHASE, FULL | HELD).then_some(Ticket(word & !PHASE))
    }
}

/// Not under loom: if a model fails, loom destroys the atomics first, and then this drop would use them.
#[cfg(not(timebox_loom))]
impl<T> Drop for Handoff<T> {
    fn drop(&mut self) {
        if let Some(ticket) = self.ticket() {
            drop(self.take(ticket));
        }
    }
}

#[cfg(all(test, not(timebox_loom)))]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_value_is_taken_once_and_by_its_own_ticket() {
        let place = Handoff::new();
        // SAFETY: one thread, and the place is empty.
        let first = unsafe { place.put(1) };
        assert_eq!(place.ticket(), Some(first));
        assert_eq!(place.hold(first, |value| std::mem::replace(value, 2)), Some(1));
        assert_eq!((place.take(first), place.take(first)), (Some(2), None));
        assert_eq!((place.ticket(), place.hold(first, |_| ())), (None, None));
        // SAFETY: one thread, and the first value was taken.
        let second = unsafe { place.put(3) };
        assert_ne!(first, second);
        assert_eq!((place.take(first), place.take(second)), (None, Some(3)));
    }

    #[test]
    fn who_holds_a_value_that_somebody_came_for_is_told_and_has_it() {
        let place = Handoff::new();
        // SAFETY: the place is empty, and this is the only thread.
        let ticket = unsafe { place.put(1) };
        assert_eq!(place.hold(ticket, |_| assert_eq!(place.take(ticket), None)), None);
        assert_eq!(place.take(ticket), Some(1));
    }

    fn filled_before<T>(times: u64) -> Handoff<T> {
        let place = Handoff::new();
        place.word.store(times.wrapping_mul(STEP), Ordering::Relaxed);
        place
    }

    #[test]
    fn an_old_ticket_is_good_for_nothing_after_any_number_of_fillings() {
        // If the count of fillings had only `bits` bits, it would repeat after `2^bits` fillings, and the old ticket
        // would fit the new value.
        for bits in 20..59 {
            let place = filled_before(7);
            // SAFETY: one thread, and the place is empty.
            let old = unsafe { place.put(1) };
            assert_eq!(place.take(old), Some(1));
            let place = filled_before(7 + (1 << bits));
            // SAFETY: one thread, and the place is empty.
            let new = unsafe { place.put(2) };
            assert_eq!((place.take(old), place.hold(old, |_| ())), (None, None), "after 2^{bits} fillings");
            assert_eq!(place.take(Ticket::from_number(new.number() | Ticket::ROOM)), Some(2));
        }
    }

    #[test]
    fn it_is_filled_and_emptied_where_its_numbers_come_round() {
        let place = filled_before(u64::MAX / STEP);
        for value in 0..3 {
            // SAFETY: one thread, and each value is taken before the next.
            let ticket = unsafe { place.put(value) };
            assert_eq!(place.ticket(), Some(ticket));
            assert_eq!(place.take(ticket), Some(value));
            assert_eq!(place.take(ticket), None);
        }
    }

    #[test]
    fn what_nobody_takes_goes_with_the_place() {
        let value = Arc::new(());
        let place = Handoff::new();
        // SAFETY: the place is empty, and this is the only thread.
        unsafe { place.put(Arc::clone(&value)) };
        drop(place);
        assert_eq!(Arc::strong_count(&value), 1);
    }
}
