//! PCRE2 (feature `regex`): compiled code, what a search writes to, and the search itself. It is here because it is called
//! through C; what an expression promises is in `interrupt/regex`.
//!
//! Invariants:
//! 1. `Code::code` is valid until it is dropped, and not written to after `Code::compile` has returned: PCRE2 lets any
//!    number of threads match with it then.
//! 2. A `Scratch` is used by one search at a time, with the code it was made for.
//! 3. A callout changes nothing that PCRE2 knows of, and what it points to outlives the search.

use std::ffi::{c_int, c_void};
use std::ptr::{self, NonNull};

use pcre2_sys::{
    PCRE2_AUTO_CALLOUT, PCRE2_ERROR_CALLOUT, PCRE2_ERROR_JIT_STACKLIMIT, PCRE2_ERROR_NOMATCH,
    PCRE2_INFO_NAMECOUNT, PCRE2_INFO_NAMEENTRYSIZE, PCRE2_INFO_NAMETABLE, PCRE2_JIT_COMPLETE,
    PCRE2_NEVER_BACKSLASH_C, PCRE2_NO_UTF_CHECK, PCRE2_UCP, PCRE2_UTF, pcre2_code_8, pcre2_code_free_8,
    pcre2_compile_8, pcre2_get_error_message_8, pcre2_get_ovector_count_8, pcre2_get_ovector_pointer_8,
    pcre2_jit_compile_8, pcre2_jit_stack_8, pcre2_jit_stack_assign_8, pcre2_jit_stack_create_8,
    pcre2_jit_stack_free_8, pcre2_match_8, pcre2_match_context_8, pcre2_match_context_create_8,
    pcre2_match_context_free_8, pcre2_match_data_8, pcre2_match_data_create_from_pattern_8,
    pcre2_match_data_free_8, pcre2_pattern_info_8, pcre2_set_depth_limit_8, pcre2_set_match_limit_8,
};

/// Of `pcre2.h`; the bindings leave it out.
const PCRE2_NO_JIT: u32 = 0x0000_2000;
/// The stack of compiled code grows to this; a search that needs more goes on without compiled code, on the heap.
const JIT_STACK: (usize, usize) = (32 << 10, 8 << 20);

type Callout = unsafe extern "C" fn(block: *mut c_void, data: *mut c_void) -> c_int;

// Of `pcre2.h`; the bindings leave it out. The block is of no interest here.
unsafe extern "C" {
    fn pcre2_set_callout_8(
        context: *mut pcre2_match_context_8,
        callout: Option<Callout>,
        data: *mut c_void,
    ) -> c_int;
}

/// Whether a search must end: asked at each item of the pattern. It must not unwind.
pub(crate) type Look = fn() -> bool;

/// Called by a search, in compiled code too, with a pointer to a [`Look`].
extern "C" fn callout(_block: *mut c_void, look: *mut c_void) -> c_int {
    // SAFETY: `Code::search` gives it a pointer to a `Look` that lives as long as the search.
    let look = unsafe { *look.cast::<Look>() };
    if look() { PCRE2_ERROR_CALLOUT } else { 0 }
}

/// What PCRE2 has to say of a pattern, or a search.
pub(crate) fn message(code: c_int) -> String {
    let mut text = [0_u8; 256];
    // SAFETY: the buffer is writable, and its length is given.
    let length = unsafe { pcre2_get_error_message_8(code, text.as_mut_ptr(), text.len()) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// How a search ended that did not come to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stopped {
    /// `look` said so.
    Ended,
    /// PCRE2 gave up.
    Failed(c_int),
}

/// A compiled pattern.
#[derive(Debug)]
pub(crate) struct Code {
    code: NonNull<pcre2_code_8>,
}

// SAFETY: invariant 1.
unsafe impl Send for Code {}
// SAFETY: invariant 1.
unsafe impl Sync for Code {}

impl Code {
    /// Compiles a pattern; the error is PCRE2's code, and the offset it means.
    pub(crate) fn compile(pattern: &str) -> Result<Self, (c_int, usize)> {
        // A byte of its own would break a `str` apart.
        let options =
            PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT;
        let (mut error, mut offset) = (0, 0);
        // SAFETY: the pattern is readable, of the length given, and valid UTF-8; the rest is writable or null, which
        // PCRE2 allows.
        let code = unsafe {
            pcre2_compile_8(
                pattern.as_ptr(),
                pattern.len(),
                options,
                &raw mut error,
                &raw mut offset,
                ptr::null_mut(),
            )
        };
        let Some(code) = NonNull::new(code) else { return Err((error, offset)) };
        // SAFETY: the code is valid and nobody else's yet. Where there is no compiler for this machine the pattern is
        // interpreted.
        unsafe { pcre2_jit_compile_8(code.as_ptr(), PCRE2_JIT_COMPLETE) };
        Ok(Self { code })
    }

    /// Something about the pattern, where that is a number.
    fn info(&self, what: u32) -> usize {
        let mut number = 0_u32;
        // SAFETY: invariant 1; the items asked for are written as 32 bits.
        unsafe { pcre2_pattern_info_8(self.code.as_ptr(), what, (&raw mut number).cast()) };
        number as usize
    }

    /// The names of its groups, with their numbers.
    pub(crate) fn names(&self) -> Vec<(String, usize)> {
        let (count, size) = (self.info(PCRE2_INFO_NAMECOUNT), self.info(PCRE2_INFO_NAMEENTRYSIZE));
        let mut table: *const u8 = ptr::null();
        // SAFETY: invariant 1; this item is written as a pointer.
        unsafe { pcre2_pattern_info_8(self.code.as_ptr(), PCRE2_INFO_NAMETABLE, (&raw mut table).cast()) };
        if table.is_null() || size < 3 {
            return Vec::new();
        }
        // SAFETY: the table has `count` entries of `size` bytes, and lives as long as the code.
        let table = unsafe { std::slice::from_raw_parts(table, count * size) };
        // Two bytes of number, then the name and a zero.
        let name = |entry: &[u8]| entry[2..].split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        let number = |entry: &[u8]| usize::from(u16::from_be_bytes([entry[0], entry[1]]));
        let entries = table.chunks_exact(size);
        entries.map(|entry| (String::from_utf8_lossy(&name(entry)).into_owned(), number(entry))).collect()
    }

    /// What a search with it writes to; `None` if there is no memory.
    pub(crate) fn scratch(&self) -> Option<Scratch> {
        // SAFETY: invariant 1. Each call returns null or what the matching `free` takes back, when the `Scratch` is
        // dropped.
        unsafe {
            let context = Context(NonNull::new(pcre2_match_context_create_8(ptr::null_mut()))?);
            let data = pcre2_match_data_create_from_pattern_8(self.code.as_ptr(), ptr::null_mut());
            let data = Data(NonNull::new(data)?);
            let (start, most) = JIT_STACK;
            let stack = NonNull::new(pcre2_jit_stack_create_8(start, most, ptr::null_mut())).map(Stack);
            if let Some(stack) = &stack {
                pcre2_jit_stack_assign_8(context.0.as_ptr(), None, stack.0.as_ptr().cast());
            }
            // Time is limited by the scope, not by counting.
            pcre2_set_match_limit_8(context.0.as_ptr(), u32::MAX);
            pcre2_set_depth_limit_8(context.0.as_ptr(), u32::MAX);
            Some(Scratch { context, data, _stack: stack })
        }
    }

    /// Searches from `at` on, for as long as `look` lets it; whether there is a match.
    pub(crate) fn search(
        &self,
        scratch: &mut Scratch,
        haystack: &str,
        at: usize,
        look: Option<Look>,
    ) -> Result<bool, Stopped> {
        debug_assert!(haystack.is_char_boundary(at));
        let asked: Option<Callout> = if look.is_some() { Some(callout) } else { None };
        let asks = look.as_ref().map_or(ptr::null_mut(), |look| ptr::from_ref(look).cast_mut().cast());
        let mut options = PCRE2_NO_UTF_CHECK;
        loop {
            // SAFETY: invariants 1 to 3; the haystack is readable, of the length given, and valid UTF-8; `at` is on a
            // boundary of it.
            let code = unsafe {
                pcre2_set_callout_8(scratch.context.0.as_ptr(), asked, asks);
                pcre2_match_8(
                    self.code.as_ptr(),
                    haystack.as_ptr(),
                    haystack.len(),
                    at,
                    options,
                    scratch.data.0.as_ptr(),
                    scratch.context.0.as_ptr(),
                )
            };
            return match code {
                0.. => Ok(true),
                PCRE2_ERROR_NOMATCH => Ok(false),
                PCRE2_ERROR_CALLOUT => Err(Stopped::Ended),
                PCRE2_ERROR_JIT_STACKLIMIT if options & PCRE2_NO_JIT == 0 => {
                    options |= PCRE2_NO_JIT;
                    continue;
                }
                code => Err(Stopped::Failed(code)),
            };
        }
    }
}

impl Drop for Code {
    fn drop(&mut self) {
        // SAFETY: invariant 1; nobody has it any more.
        unsafe { pcre2_code_free_8(self.code.as_ptr()) };
    }
}

/// What a search writes to. Made once, used again.
#[derive(Debug)]
pub(crate) struct Scratch {
    // Before the stack, to which it points.
    context: Context,
    data: Data,
    _stack: Option<Stack>,
}

// SAFETY: invariant 2: it is memory, tied to no thread.
unsafe impl Send for Scratch {}

impl Scratch {
    /// The starts and ends of the groups of the last match, the whole of it first; `usize::MAX` for those that are not
    /// in it.
    pub(crate) fn offsets(&self) -> &[usize] {
        // SAFETY: invariant 2; the vector has two numbers for each of the groups that are counted.
        unsafe {
            let count = pcre2_get_ovector_count_8(self.data.0.as_ptr()) as usize;
            std::slice::from_raw_parts(pcre2_get_ovector_pointer_8(self.data.0.as_ptr()), count * 2)
        }
    }
}

/// Something of PCRE2's that is freed when dropped.
macro_rules! owned {
    ($name:ident, $of:ty, $free:ident) => {
        #[derive(Debug)]
        struct $name(NonNull<$of>);

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: made by the matching `create`, and nobody has it any more.
                unsafe { $free(self.0.as_ptr()) };
            }
        }
    };
}

owned!(Context, pcre2_match_context_8, pcre2_match_context_free_8);
owned!(Data, pcre2_match_data_8, pcre2_match_data_free_8);
owned!(Stack, pcre2_jit_stack_8, pcre2_jit_stack_free_8);
