//! Copies of the frames of a thread's scopes, for reports.
//!
//! Another thread reads the frames, or a signal handler on the thread itself does. The frames are read as bytes, and no
//! reference to a frame is made. A copy has a fixed size, since a signal handler cannot allocate.

use std::mem::{offset_of, size_of};

use super::Scope;
use crate::scope::config::{Extras, Readable};
use crate::scope::spec::Kind;
use crate::time::NEVER;

/// How many scopes of a thread are copied, at most. If there are more, the outermost ones are missing.
pub(crate) const MOST_SCOPES: usize = 24;

const LABEL_BYTES: usize = 96;

const FIELDS_BYTES: usize = 480;

/// Memory that is read by address: the memory of this process, or a file.
pub(crate) trait ReadMemory {
    /// Copies bytes from `address` on until `into` is full or the memory ends. Returns how many bytes were copied. An
    /// address without memory does no harm.
    fn read(&self, address: u64, into: &mut [u8]) -> usize;
}

#[derive(Clone, Copy)]
pub(crate) struct ShortText<const N: usize> {
    bytes: [u8; N],
    len: usize,
}

impl<const N: usize> ShortText<N> {
    const EMPTY: Self = Self { bytes: [0; N], len: 0 };

    fn read(&mut self, memory: &impl ReadMemory, address: u64, len: u64) {
        let len = usize::try_from(len).unwrap_or(N).min(N);
        self.len = memory.read(address, &mut self.bytes[..len]).min(len);
    }

    pub(crate) fn to_text(self) -> String {
        // A long text is cut, perhaps in the middle of a character.
        String::from_utf8_lossy(&self.bytes[..self.len]).into_owned()
    }
}

#[derive(Clone, Copy)]
pub(crate) struct ScopeCopy {
    /// The address of the frame. Frames on the stack with a higher address are outside the scope.
    pub(crate) frame: u64,
    pub(crate) entered: u64,
    pub(crate) asked: u64,
    /// The address of the `Location` at which the scope was opened.
    pub(crate) location: u64,
    /// The scope's identity; 0 if nobody has asked for it yet.
    pub(crate) id: u64,
    pub(crate) kind: Kind,
    /// The number of the poll, if [`Kind::is_polled`].
    pub(crate) poll: u64,
    pub(crate) unmeasured: bool,
    pub(crate) mocked: bool,
    pub(crate) label: ShortText<LABEL_BYTES>,
    /// Names and values in turn, each followed by a zero byte. A long text is cut.
    pub(crate) fields: ShortText<FIELDS_BYTES>,
    /// After how long the scope is reported as slow; [`NEVER`] if the scope has no such time of its own.
    pub(crate) warn_after: u64,
    /// How long after its expiry the scope is overdue; [`NEVER`] if the scope has no such time of its own.
    pub(crate) overdue_after: u64,
}

impl ScopeCopy {
    const EMPTY: Self = Self {
        frame: 0,
        entered: 0,
        asked: 0,
        location: 0,
        id: 0,
        kind: Kind::Block,
        poll: 0,
        unmeasured: false,
        mocked: false,
        label: ShortText::EMPTY,
        fields: ShortText::EMPTY,
        warn_after: NEVER,
        overdue_after: NEVER,
    };

    pub(crate) fn own(&self) -> u64 {
        self.entered.saturating_add(self.asked)
    }
}

/// Copies of the scopes of a thread, innermost first.
pub(crate) struct ScopeCopies {
    count: usize,
    /// Whether outer scopes are missing: there are more than [`MOST_SCOPES`], or a frame could not be read.
    pub(crate) is_cut: bool,
    scopes: [ScopeCopy; MOST_SCOPES],
}

struct Bytes<const N: usize>([u8; N]);

impl<const N: usize> Bytes<N> {
    fn read(memory: &impl ReadMemory, address: u64) -> Option<Self> {
        let mut bytes = [0; N];
        (memory.read(address, &mut bytes) == N).then_some(Self(bytes))
    }

    fn word(&self, offset: usize) -> u64 {
        let mut word = [0; size_of::<usize>()];
        word.copy_from_slice(&self.0[offset..offset + size_of::<usize>()]);
        usize::from_ne_bytes(word) as u64
    }

    fn long(&self, offset: usize) -> u64 {
        let mut word = [0; 8];
        word.copy_from_slice(&self.0[offset..offset + 8]);
        u64::from_ne_bytes(word)
    }
}

impl ScopeCopies {
    pub(crate) const fn new() -> Self {
        Self { count: 0, is_cut: false, scopes: [ScopeCopy::EMPTY; MOST_SCOPES] }
    }

    pub(crate) fn scopes(&self) -> &[ScopeCopy] {
        &self.scopes[..self.count]
    }

    pub(crate) fn clear(&mut self) {
        self.count = 0;
        self.is_cut = false;
    }

    /// Copies the scopes of a thread. `word` is the address of the thread's pointer to its innermost frame
    /// ([`Thread::frame_word`](crate::thread::Thread::frame_word)).
    ///
    /// Neither allocates nor panics, so a signal handler of that thread may call this. If another thread calls this,
    /// the copied thread may run meanwhile. Then the copy may be nonsense.
    pub(crate) fn fill(&mut self, word: u64, memory: &impl ReadMemory) {
        self.clear();
        let Some(pointer) = Bytes::<{ size_of::<usize>() }>::read(memory, word) else { return };
        let mut frame = pointer.word(0);
        while frame != 0 {
            let Some(place) = self.scopes.get_mut(self.count) else {
                self.is_cut = true;
                return;
            };
            let Some(outer) = copy(frame, memory, place) else {
                self.is_cut = true;
                return;
            };
            self.count += 1;
            frame = outer;
        }
    }
}

/// Copies into `place` the scope whose frame is at the address `frame`. Returns the address of the next frame outwards.
/// `None`: the frame cannot be read, or is no frame. (If the copy were returned, this would need more of a signal
/// handler's small stack.)
fn copy(frame: u64, memory: &impl ReadMemory, place: &mut ScopeCopy) -> Option<u64> {
    let bytes = Bytes::<{ size_of::<Scope>() }>::read(memory, frame)?;
    place.frame = frame;
    place.entered = bytes.long(offset_of!(Scope, entered));
    place.asked = bytes.long(offset_of!(Scope, asked));
    place.location = bytes.word(offset_of!(Scope, location));
    place.id = bytes.long(offset_of!(Scope, id));
    place.kind = Kind::from_bits(bytes.0[offset_of!(Scope, kind)])?;
    place.poll = bytes.long(offset_of!(Scope, poll));
    place.unmeasured = bytes.0[offset_of!(Scope, unmeasured)] != 0;
    #[cfg(feature = "testing")]
    {
        place.mocked = bytes.0[offset_of!(Scope, mocked)] != 0;
    }
    place.label.len = 0;
    place.fields.len = 0;
    place.warn_after = NEVER;
    place.overdue_after = NEVER;
    let extras = bytes.word(offset_of!(Scope, extras));
    if extras != 0 {
        copy_extras(extras, memory, place)?;
    }
    Some(bytes.word(offset_of!(Scope, outer)))
}

fn copy_extras(extras: u64, memory: &impl ReadMemory, place: &mut ScopeCopy) -> Option<()> {
    let readable = extras.checked_add(offset_of!(Extras, readable) as u64)?;
    let readable = Bytes::<{ size_of::<Readable>() }>::read(memory, readable)?;
    let text = |offset: usize| (readable.word(offset), readable.word(offset + size_of::<usize>()));
    let (address, len) = text(offset_of!(Readable, label));
    place.label.read(memory, address, len);
    let (address, len) = text(offset_of!(Readable, fields));
    place.fields.read(memory, address, len);
    place.warn_after = readable.long(offset_of!(Readable, warn_after));
    place.overdue_after = readable.long(offset_of!(Readable, overdue_after));
    Some(())
}
