//! Which functions are not the user's.

/// Crates whose functions are folded in the text of a report: std, the runtimes with their locks and channels, web
/// frameworks, system calls, and this crate.
#[rustfmt::skip] // a list of words
const CRATES: [&str; 52] = [
    "std", "core", "alloc", "test", "panic_unwind", "hashbrown", "backtrace", "timebox",
    "tokio", "tokio_util", "tokio_stream", "mio",
    "async_channel", "async_executor", "async_fs", "async_global_executor", "async_io", "async_lock", "async_net",
    "async_std", "async_task", "smol", "blocking", "polling", "event_listener", "event_listener_strategy",
    "futures", "futures_channel", "futures_concurrency", "futures_core", "futures_executor", "futures_io", "futures_lite",
    "futures_timer", "futures_util",
    "rayon", "rayon_core", "crossbeam_channel", "flume", "parking_lot", "parking_lot_core", "lock_api", "pollster",
    "axum", "axum_core", "h2", "hyper", "hyper_util", "tonic", "tower", "timebox_tower", "rustix",
];

/// Parts of the paths of std's source files.
const FOLDERS: [&str; 4] = ["/rustc/", "/rustlib/src/", "/library/std/src/", "/library/core/src/"];

/// Parts of the paths of the source files of some of the [`CRATES`]. An inlined function is recognised by its path,
/// because maybe only the last part of its name is known.
const PACKAGES: [&str; 14] = [
    "/tokio-1",
    "/tokio-util-",
    "/mio-",
    "/async-executor-",
    "/async-io-",
    "/async-task-",
    "/async-global-executor-",
    "/blocking-",
    "/polling-",
    "/futures-",
    "/rayon-",
    "/crossbeam-",
    "/timebox-",
    "/pollster-",
];

/// The files of C libraries begin with these names. All functions of these files are foreign.
const LIBRARIES: [&str; 7] = ["libc.so", "libc-", "libpthread", "ld-linux", "ld-musl", "libgcc_s", "[vdso]"];
/// Functions that call `main` or the function of a thread. They are foreign, although some are in the program's own
/// file.
const STARTS: [&str; 6] =
    ["_start", "__libc_start_main", "__libc_start_call_main", "main", "start_thread", "clone3"];

/// Whether a function belongs to std, to the C library, to this crate, or to another crate of `CRATES`.
pub(super) fn is_foreign(function: &str, file: Option<&str>, module: &str) -> bool {
    if is_library(module) {
        return true;
    }
    if let Some(file) = file
        && (FOLDERS.iter().any(|folder| file.contains(folder)) || is_of_package(file))
    {
        return true;
    }
    if STARTS.contains(&function) || function.starts_with("__rust_") {
        return true;
    }
    crate_of(function).is_some_and(|name| CRATES.contains(&name)) && !is_test(function)
}

/// Whether a file is a C library.
pub(super) fn is_library(module: &str) -> bool {
    LIBRARIES.iter().any(|library| module.starts_with(library))
}

/// Whether a function is taken for one of the C library, in a program that contains the C library. `symbol` is the
/// name in the symbol table. Functions of Rust have a mangled name, or a source file of Rust.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) fn is_of_static_library(symbol: &str, file: Option<&str>) -> bool {
    !symbol.starts_with("_R") && !symbol.starts_with("_ZN") && file.is_none_or(|file| file.contains("musl"))
}

/// Whether a function belongs to this crate. If the name does not tell the crate, the file decides: of an inlined
/// function, maybe only the last part of the name is known.
#[cfg_attr(not(target_os = "linux"), allow(dead_code))]
pub(super) fn is_own(function: &str, file: Option<&str>) -> bool {
    match crate_of(function) {
        Some(name) => name == "timebox" && !is_test(function),
        None => file.is_some_and(|file| is_of_package(file) && file.contains("/timebox-")),
    }
}

/// Whether a function is in a module of unit tests. Unit tests count as the program's own code, even in this crate.
fn is_test(function: &str) -> bool {
    function.contains("::tests::")
}

/// The crate of a function: `a` for `<&mut a::B as c::D>::e`. If the type has no crate, as in `<F as c::D>::e`, the
/// crate of the trait. `None` for a name without a path.
pub(super) fn crate_of(function: &str) -> Option<&str> {
    let (of_type, of_trait) = match function.strip_prefix('<') {
        Some(rest) => rest.split_once(" as ").unwrap_or((rest, "")),
        None => (function, ""),
    };
    [of_type, of_trait].into_iter().find_map(|path| self_type(path).split_once("::")).map(|(name, _)| name)
}

/// Whether a source file is one of the [`PACKAGES`], in the folder to which cargo downloads packages.
fn is_of_package(file: &str) -> bool {
    let Some((_, path)) = file.split_once("/registry/src/") else { return false };
    PACKAGES.iter().any(|package| path.contains(package))
}

/// The path that a type begins with: `a::B` for `&mut a::B`.
fn self_type(function: &str) -> &str {
    let mut path = function;
    loop {
        let shorter = path.trim_start_matches(['<', '&', '*', '(', '[']);
        let prefixes = ["mut ", "const ", "dyn "];
        let shorter = prefixes.iter().fold(shorter, |path, prefix| path.strip_prefix(prefix).unwrap_or(path));
        if shorter.len() == path.len() {
            return path;
        }
        path = shorter;
    }
}

#[cfg(test)]
mod tests {
    use super::{is_foreign, is_of_static_library};

    #[test]
    fn functions_of_std_and_of_runtimes_are_foreign() {
        for name in [
            "std::thread::sleep",
            "<alloc::boxed::Box<F,A> as core::ops::function::FnOnce<Args>>::call_once",
            "<&mut core::pin::Pin<P> as core::future::future::Future>::poll",
            "tokio::runtime::park::CachedParkThread::block_on",
            "core::ptr::drop_in_place<app::Guard>",
            "timebox::scope::run::timeout",
            "<F as futures_core::future::TryFuture>::try_poll",
            "main",
        ] {
            assert!(is_foreign(name, None, "app"), "{name}");
        }
        assert!(is_foreign("read", None, "libc.so.6"));
        assert!(is_foreign("call_once<..>", Some("/rustc/abc/library/core/src/ops/function.rs"), "app"));
        let file = "/home/me/.cargo/registry/src/index.crates.io-1949cf8c6b5b557f/tokio-1.45.0/src/task.rs";
        assert!(is_foreign("{closure#0}", Some(file), "app"));
    }

    #[test]
    fn functions_of_a_c_library_in_the_program_are_known_by_their_names() {
        assert!(is_of_static_library("clock_nanosleep", None));
        assert!(is_of_static_library("poll", Some("/build/musl-1.2.5/src/select/poll.c")));
        assert!(!is_of_static_library("_ZN3app4main17h0123456789abcdefE", None));
        assert!(!is_of_static_library("_RNvCs1234_3app4main", None));
        assert!(!is_of_static_library("compare", Some("/home/me/app/src/main.rs")));
    }

    #[test]
    fn functions_of_the_program_are_not() {
        for name in [
            "app::main",
            "app::handle::{{closure}}",
            "<app::Job as core::future::future::Future>::poll",
            "<app::Guard as core::ops::drop::Drop>::drop",
            "<F as app::Job>::run",
            "standard::tokio::x",
            "slow_query",
        ] {
            assert!(!is_foreign(name, Some("src/main.rs"), "app"), "{name}");
        }
        assert!(!is_foreign("sqlite3_step", None, "libsqlite3.so.0"));
    }
}
