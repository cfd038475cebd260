//! Tests the names of functions: in libraries that were built in different ways, and in a library whose file was
//! replaced.

use std::ffi::CString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::Command;
use std::{mem, thread};

use super::{Eyes, Thread};
use crate::report::contents::{Frame, Stack};

const SOURCE: &str = include_str!("../../../../tests/fixtures/names.rs");

/// Compiles the source to the library `libNAME.so` in the folder. `false` if there is no compiler.
fn compile(folder: &Path, name: &str, source: &str, options: &[&str]) -> bool {
    fs::write(folder.join("names.rs"), source).unwrap();
    let mut compiler = Command::new(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    compiler.current_dir(folder).args([
        "names.rs",
        "--crate-name=names",
        "--crate-type=cdylib",
        "--edition=2024",
    ]);
    compiler.args(["-Copt-level=3", "-o", &format!("lib{name}.so")]).args(options);
    match compiler.output() {
        Ok(output) => {
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            true
        }
        Err(error) => {
            eprintln!("not run: there is no Rust compiler ({error})");
            false
        }
    }
}

fn enter(library: &Path) -> Thread {
    let path = CString::new(library.as_os_str().as_bytes()).unwrap();
    // SAFETY: the library was compiled from a source that has this function.
    let enter = unsafe {
        let library = libc::dlopen(path.as_ptr(), libc::RTLD_NOW);
        assert!(!library.is_null());
        mem::transmute::<*mut libc::c_void, extern "C" fn()>(libc::dlsym(library, c"enter".as_ptr()))
    };
    Thread::start(move || enter())
}

fn is_of_library(frame: &Frame) -> bool {
    frame.module.as_ref().is_some_and(|module| module.starts_with("libnames"))
}

fn look(thread: &Thread) -> Stack {
    let target = thread.target();
    let mut eyes = Eyes::new();
    loop {
        let (copy, stack) = eyes.look(&target);
        if copy.call.is_some_and(|call| call.number == libc::SYS_clock_nanosleep) {
            return stack;
        }
        thread::yield_now();
    }
}

/// The library's own functions in a stack, as `function:line`, with `+` if inlined.
fn own(stack: &Stack) -> Vec<String> {
    let frames = stack.frames.iter().filter(|frame| is_of_library(frame) && !frame.foreign);
    let text = |frame: &Frame| {
        if let Some(file) = &frame.file {
            assert!(file.ends_with("names.rs"), "{frame:?}");
        }
        let line = frame.line.map(|line| format!(":{line}")).unwrap_or_default();
        // A function without a name is written as `library!fn_` and a number. The number depends on the compiler, so it
        // is cut off.
        let function = frame.function.split_once("!fn_").map(|(library, _)| format!("{library}!fn"));
        let function = function.as_deref().unwrap_or(&frame.function);
        format!("{function}{line}{}", if frame.inlined { " +" } else { "" })
    };
    frames.map(text).collect()
}

#[test]
fn names_are_as_good_as_the_build() {
    let full: &[&str] = &[
        "names::inlined:11 +",
        "names::sleeps:17",
        "names::leaf::{{closure}}:22 +",
        "names::branch::{{closure}}:27 +",
        "enter:34",
    ];
    // With line tables only, an inlined function has only the last part of its name.
    let lines: &[&str] =
        &["inlined:11 +", "names::sleeps:17", "{async_fn#0}:22 +", "{async_fn#0}:27 +", "enter:34"];
    let folder = tempfile::tempdir().unwrap();
    for (name, options, expected) in [
        ("names_debug_2", &["-Cdebuginfo=2"][..], full),
        ("names_debug_1", &["-Cdebuginfo=1"], full),
        ("names_lto", &["-Cdebuginfo=1", "-Clto=fat", "-Cpanic=abort"], full),
        ("names_lines", &["-Cdebuginfo=line-tables-only"], lines),
        ("names_debug_0", &["-Cdebuginfo=0"], &["names::sleeps", "enter"]),
        // The first name is that of a function of std. Without symbols it looks like a function of the library.
        (
            "names_stripped",
            &["-Cdebuginfo=0", "-Cstrip=symbols"],
            &["libnames_stripped.so!fn", "libnames_stripped.so!fn", "enter"],
        ),
    ] {
        if !compile(folder.path(), name, SOURCE, options) {
            return;
        }
        let found = own(&look(&enter(&folder.path().join(format!("lib{name}.so")))));
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_library_whose_file_was_replaced_has_the_right_names_or_none() {
    let folder = tempfile::tempdir().unwrap();
    let other_source = SOURCE.replace("sleeps", "is_another");
    let (this, other) = (folder.path().join("libnames.so"), folder.path().join("libother.so"));
    if !compile(folder.path(), "names", SOURCE, &["-Clink-arg=-Wl,--build-id"]) {
        return;
    }
    let thread = enter(&this);
    assert!(own(&look(&thread)).iter().any(|name| name.starts_with("names::sleeps")));
    assert!(compile(folder.path(), "other", &other_source, &["-Clink-arg=-Wl,--build-id"]));
    fs::rename(&other, &this).unwrap();
    // Each `look` opens the files anew, so this look knows no names from the first look.
    let names = own(&look(&thread));
    assert!(!names.iter().any(|name| name.contains("is_another")), "{names:?}");
    // A privileged process can open the mapped file although it was replaced, and finds the right name. Any other
    // process shows `fn_` and an offset.
    assert!(
        names.iter().any(|name| name == "names::sleeps" || name.starts_with("libnames.so!fn_")),
        "{names:?}"
    );
}
