//! The C interface of PCRE2: compiled code, the memory of a search, and the search itself. All `unsafe` code of the
//! module `regex` is here.
//!
//! Invariants:
//! 1. `Code::code` is valid until the `Code` is dropped. After `Code::compile` has returned, nothing writes to the
//!    compiled code, so any number of threads may match with it.
//! 2. A `Scratch` is used by one search at a time, with the code that it was made for.
//! 3. A callout changes no data of PCRE2's. Its pointer to a `Look` is valid until the search has ended.

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

/// A constant of `pcre2.h` that the bindings lack.
const PCRE2_NO_JIT: u32 = 0x0000_2000;
/// The first and the largest size of the stack of just-in-time compiled code. A search that needs a larger stack is
/// repeated by PCRE2's interpreter, which uses the heap.
const JIT_STACK: (usize, usize) = (32 << 10, 8 << 20);

type Callout = unsafe extern "C" fn(block: *mut c_void, data: *mut c_void) -> c_int;

// A function of `pcre2.h` that the bindings lack. Our callout ignores its `block`, so `block` is a `void` pointer here.
unsafe extern "C" {
    fn pcre2_set_callout_8(
        context: *mut pcre2_match_context_8,
        callout: Option<Callout>,
        data: *mut c_void,
    ) -> c_int;
}

/// A function that says whether a search must end: `true` ends the search. The search calls it at each item of the
/// pattern. The function must not unwind.
pub(super) type Look = fn() -> bool;

/// PCRE2 calls this at each item of the pattern. `look` points to a [`Look`].
extern "C" fn callout(_block: *mut c_void, look: *mut c_void) -> c_int {
    // SAFETY: `Code::search` gives this callout a pointer to a `Look` that lives as long as the search.
    let look = unsafe { *look.cast::<Look>() };
    if look() { PCRE2_ERROR_CALLOUT } else { 0 }
}

pub(super) fn message(code: c_int) -> String {
    let mut text = [0_u8; 256];
    // SAFETY: the buffer is writable, and its length is given.
    let length = unsafe { pcre2_get_error_message_8(code, text.as_mut_ptr(), text.len()) };
    let length = usize::try_from(length).unwrap_or(0).min(text.len());
    String::from_utf8_lossy(&text[..length]).into_owned()
}

/// Why a search did not run to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stopped {
    /// The search's [`Look`] has returned `true`.
    Ended,
    /// PCRE2 gave up, with this error code.
    Failed(c_int),
}

/// A compiled pattern.
#[derive(Debug)]
pub(super) struct Code {
    code: NonNull<pcre2_code_8>,
}

// SAFETY: invariant 1.
unsafe impl Send for Code {}
// SAFETY: invariant 1.
unsafe impl Sync for Code {}

impl Code {
    /// Compiles a pattern. An error consists of PCRE2's error code and the offset of the mistake.
    pub(super) fn compile(pattern: &str) -> Result<Self, (c_int, usize)> {
        // `\C` is forbidden: it matches a single byte, so it could split a character of a `str`.
        let options =
            PCRE2_UTF | PCRE2_UCP | PCRE2_NO_UTF_CHECK | PCRE2_NEVER_BACKSLASH_C | PCRE2_AUTO_CALLOUT;
        let (mut error, mut offset) = (0, 0);
        // SAFETY: the pattern is readable, has the given length, and is valid UTF-8. `error` and `offset` are
        // writable. PCRE2 allows a null context.
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
        // SAFETY: the code is valid, and no other thread has it yet.
        // On a machine without a just-in-time compiler this call fails. The pattern is then interpreted.
        unsafe { pcre2_jit_compile_8(code.as_ptr(), PCRE2_JIT_COMPLETE) };
        Ok(Self { code })
    }

    fn info(&self, what: u32) -> usize {
        let mut number = 0_u32;
        // SAFETY: invariant 1. `info` is called only for properties that PCRE2 writes as a 32-bit number. So `number`
        // has room.
        unsafe { pcre2_pattern_info_8(self.code.as_ptr(), what, (&raw mut number).cast()) };
        number as usize
    }

    pub(super) fn names(&self) -> Vec<(String, usize)> {
        let (count, size) = (self.info(PCRE2_INFO_NAMECOUNT), self.info(PCRE2_INFO_NAMEENTRYSIZE));
        let mut table: *const u8 = ptr::null();
        // SAFETY: invariant 1. PCRE2 writes this property as a pointer. So `table` has room.
        unsafe { pcre2_pattern_info_8(self.code.as_ptr(), PCRE2_INFO_NAMETABLE, (&raw mut table).cast()) };
        if table.is_null() || size < 3 {
            return Vec::new();
        }
        // SAFETY: the table has `count` entries of `size` bytes, and lives as long as the code.
        let table = unsafe { std::slice::from_raw_parts(table, count * size) };
        // An entry has two bytes for the number of a group, then the name of the group and a zero.
        let name = |entry: &[u8]| entry[2..].split(|&byte| byte == 0).next().unwrap_or_default().to_vec();
        let number = |entry: &[u8]| usize::from(u16::from_be_bytes([entry[0], entry[1]]));
        let entries = table.chunks_exact(size);
        entries.map(|entry| (String::from_utf8_lossy(&name(entry)).into_owned(), number(entry))).collect()
    }

    /// Allocates the memory of a search. `None` if there is not enough memory.
    pub(super) fn scratch(&self) -> Option<Scratch> {
        // SAFETY: invariant 1. Each `create` returns null or a pointer that belongs to us. The matching `free` is
        // called when the `Scratch` is dropped.
        unsafe {
            let context = Context(NonNull::new(pcre2_match_context_create_8(ptr::null_mut()))?);
            let data = pcre2_match_data_create_from_pattern_8(self.code.as_ptr(), ptr::null_mut());
            let data = Data(NonNull::new(data)?);
            let (start, most) = JIT_STACK;
            let stack = NonNull::new(pcre2_jit_stack_create_8(start, most, ptr::null_mut())).map(Stack);
            if let Some(stack) = &stack {
                pcre2_jit_stack_assign_8(context.0.as_ptr(), None, stack.0.as_ptr().cast());
            }
            // The scope limits the search, so PCRE2's own limits are off.
            pcre2_set_match_limit_8(context.0.as_ptr(), u32::MAX);
            pcre2_set_depth_limit_8(context.0.as_ptr(), u32::MAX);
            Some(Scratch { context, data, _stack: stack })
        }
    }

    /// Searches from `at` on. `Ok(true)` if there is a match. `Err(Stopped::Ended)` if `look` has returned `true`.
    pub(super) fn search(
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
            // SAFETY: invariants 1 to 3; the haystack is readable, has the given length, and is valid UTF-8; `at` is
            // on a character boundary.
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
        // SAFETY: invariant 1; this is the only owner.
        unsafe { pcre2_code_free_8(self.code.as_ptr()) };
    }
}

/// The memory of a search. Later searches use it again.
#[derive(Debug)]
pub(super) struct Scratch {
    // The context points to the stack, so the context must be dropped first. Fields are dropped in the order in which
    // they are declared.
    context: Context,
    data: Data,
    _stack: Option<Stack>,
}

// SAFETY: invariant 2; the memory is not tied to a thread.
unsafe impl Send for Scratch {}

impl Scratch {
    /// For each group of the last match, its start and its end. The whole match is the first group. A group that is not
    /// in the match has `usize::MAX` for both.
    pub(super) fn offsets(&self) -> &[usize] {
        // SAFETY: invariant 2; PCRE2's vector has two numbers for each of the `count` groups.
        unsafe {
            let count = pcre2_get_ovector_count_8(self.data.0.as_ptr()) as usize;
            std::slice::from_raw_parts(pcre2_get_ovector_pointer_8(self.data.0.as_ptr()), count * 2)
        }
    }
}

/// Declares a type that owns a PCRE2 object and frees it on drop.
macro_rules! owned {
    ($name:ident, $of:ty, $free:ident) => {
        #[derive(Debug)]
        struct $name(NonNull<$of>);

        impl Drop for $name {
            fn drop(&mut self) {
                // SAFETY: the matching `create` has made the object, and this is its only owner.
                unsafe { $free(self.0.as_ptr()) };
            }
        }
    };
}

owned!(Context, pcre2_match_context_8, pcre2_match_context_free_8);
owned!(Data, pcre2_match_data_8, pcre2_match_data_free_8);
owned!(Stack, pcre2_jit_stack_8, pcre2_jit_stack_free_8);
