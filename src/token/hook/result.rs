use std::borrow::Cow;
use std::cell::{Ref, RefMut};
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, HashMap, HashSet, LinkedList, VecDeque};
use std::fmt::Debug;
use std::rc::Rc;
use std::sync::{Arc, MutexGuard, RwLockReadGuard, RwLockWriteGuard};

/// The result of a [`Hook`](crate::Hook)'s closure. An `Err` says that the hook has failed; any other result is
/// ignored.
///
/// The error is kept: see [`HookFailure`](crate::HookFailure). If the hook fires more than once, the pauses get longer
/// while it fails.
///
/// The types of std that a closure is likely to return implement this trait. If your closure returns another type, end
/// it with a semicolon, or return a `Result`. Other crates cannot implement this trait: it is implemented for `!`,
/// which has no name yet.
///
/// # Examples
///
/// ```
/// use timebox::HookResult;
///
/// # struct Reply { code: u16 }
/// # fn cancel() -> Reply { Reply { code: 503 } }
/// let hook = timebox::Hook::new(|| match cancel() {
///     Reply { code: 200 } => Ok(()),
///     Reply { code } => Err(format!("the server said {code}")),
/// });
/// # drop(hook);
/// assert_eq!(Err::<(), _>("no route").into_failure().as_deref(), Some("no route"));
/// assert_eq!(Some(7).into_failure(), None);
/// ```
#[diagnostic::on_unimplemented(
    // The message itself says what to do, because for some calls the compiler does not print the notes.
    message = "a hook's closure returns `{Self}`, which may stand for a failure: end the closure with a semicolon, or return a `Result`",
    label = "this is not ignored",
    note = "a future would never be polled: a hook is a plain closure"
)]
pub trait HookResult: Sized {
    /// The failure in one line; `None` if there was none.
    fn into_failure(self) -> Option<String>;
}

impl<T, E: Debug> HookResult for Result<T, E> {
    fn into_failure(self) -> Option<String> {
        let text = format!("{:?}", self.err()?);
        // The `Debug` of a string has quotes around it. They are stripped, unless there are more quotes inside: then
        // the text may not be one string.
        let inside = text.strip_prefix('"').and_then(|text| text.strip_suffix('"'));
        Some(inside.filter(|inside| !inside.contains('"')).unwrap_or(&text).to_owned())
    }
}

macro_rules! ignored {
    ($($({$($generics:tt)*})? $type:ty),* $(,)?) => {$(
        impl$(<$($generics)*>)? HookResult for $type {
            fn into_failure(self) -> Option<String> {
                None
            }
        }
    )*};
}

/// Names the type `!`: it is `<fn() -> ! as Returning>::Returned`. Stable Rust has no other name for this type.
#[doc(hidden)]
#[allow(unnameable_types)]
pub trait Returning {
    type Returned;
}

impl<R> Returning for fn() -> R {
    type Returned = R;
}

ignored! {
    (), <fn() -> ! as Returning>::Returned, bool, char,
    u8, u16, u32, u64, u128, usize, i8, i16, i32, i64, i128, isize, f32, f64,
    String, std::time::Duration, std::time::Instant, std::time::SystemTime, std::cmp::Ordering,
    std::thread::ThreadId, std::thread::Thread, std::process::ExitStatus, std::process::Output, std::process::Child,
    std::fs::File, std::net::TcpStream, std::path::PathBuf, std::ffi::OsString,
    crate::time::Deadline, crate::error::Cause,
    {T: ?Sized} &T, {T: ?Sized} &mut T, {T: ?Sized} *const T, {T: ?Sized} *mut T,
    {T: ?Sized} Box<T>, {T: ?Sized} Rc<T>, {T: ?Sized} Arc<T>, {T: ?Sized} std::rc::Weak<T>, {T: ?Sized} std::sync::Weak<T>,
    {T: ToOwned + ?Sized} Cow<'_, T>, {T: ?Sized} Ref<'_, T>, {T: ?Sized} RefMut<'_, T>,
    {T: ?Sized} MutexGuard<'_, T>, {T: ?Sized} RwLockReadGuard<'_, T>, {T: ?Sized} RwLockWriteGuard<'_, T>,
    {T} Option<T>, {T} std::task::Poll<T>, {T, const N: usize} [T; N], {T} Vec<T>, {T} VecDeque<T>, {T} LinkedList<T>,
    {T} BTreeSet<T>, {T} BinaryHeap<T>, {T, S} HashSet<T, S>, {K, V} BTreeMap<K, V>, {K, V, S} HashMap<K, V, S>,
    {T} std::thread::JoinHandle<T>, {T} std::thread::ScopedJoinHandle<'_, T>,
    {T} std::num::Wrapping<T>, {T: ?Sized} std::marker::PhantomData<T>,
    {A} (A,), {A, B} (A, B), {A, B, C} (A, B, C), {A, B, C, D} (A, B, C, D),
}
