use std::fmt::{self, Display, Formatter};

use super::contents::Frame;
use crate::error::OneLine;

/// Function names are padded to at most this width, so that the places form a column. A longer name moves only its own
/// place to the right.
const WIDEST: usize = 64;

/// A run of this many foreign frames, or more, is folded into one line.
const FOLD: usize = 2;

/// Writes a stack as lines. A frame of the program's own code is one line. A run of foreign frames is folded into one
/// line.
///
/// If the program's innermost frame has called a foreign function, that function has a line of its own, because it says
/// what the program wanted. A stack without frames of the program is written in full.
pub(super) struct Frames<'a>(pub(super) &'a [Frame]);

enum Line<'a> {
    Frame(&'a Frame),
    Folded(&'a [Frame]),
}

impl<'a> Frames<'a> {
    #[cfg(feature = "flamegraph")]
    pub(super) fn names(&self) -> Vec<String> {
        let name = |line| match line {
            Line::Frame(frame) => frame.function.clone(),
            Line::Folded(frames) => format!("({})", Owners(frames)),
        };
        self.lines().into_iter().map(name).collect()
    }

    fn lines(&self) -> Vec<Line<'a>> {
        let frames = self.0;
        if frames.iter().all(|frame| frame.foreign) {
            return frames.iter().map(Line::Frame).collect();
        }
        let mut lines = Vec::new();
        for run in frames.chunk_by(|a, b| a.foreign == b.foreign) {
            let folded = match run {
                [own, ..] if !own.foreign => 0,
                // The program's own code called the last function of the innermost run. So that function is not folded.
                _ if lines.is_empty() => run.len() - 1,
                _ => run.len(),
            };
            let (folded, shown) = run.split_at(folded);
            if folded.len() < FOLD {
                lines.extend(folded.iter().map(Line::Frame));
            } else {
                lines.push(Line::Folded(folded));
            }
            lines.extend(shown.iter().map(Line::Frame));
        }
        lines
    }
}

impl Display for Frames<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let lines = self.lines();
        let shown = |frame: &Frame| OneLine(&frame.function).to_string();
        let width = |line: &Line<'_>| match line {
            Line::Frame(frame) => shown(frame).chars().count(),
            Line::Folded(_) => 0,
        };
        let width = lines.iter().map(width).filter(|&width| width <= WIDEST).max().unwrap_or(0);
        for line in &lines {
            match line {
                Line::Frame(frame) => {
                    let (function, place) = (shown(frame), Place(frame).to_string());
                    let inlined = if frame.inlined { "  (inlined)" } else { "" };
                    let text = format!("  {function:<width$}  {place}{inlined}");
                    writeln!(f, "{}", text.trim_end())?;
                }
                Line::Folded(frames) => {
                    writeln!(f, "  ... {} frames of {} ...", frames.len(), Owners(frames))?;
                }
            }
        }
        Ok(())
    }
}

/// `file:line` of a frame. Without debug information: `module+offset`. Nothing if the frame's name is `module+offset`.
pub(super) struct Place<'a>(pub(super) &'a Frame);

impl Display for Place<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match (&self.0.file, self.0.line, &self.0.module) {
            (Some(file), Some(line), _) => write!(f, "{}:{line}", OneLine(short(file))),
            (Some(file), None, _) => write!(f, "{}", OneLine(short(file))),
            (None, _, Some(module)) => {
                let place = format!("{module}+{:#x}", self.0.offset);
                if self.0.function == place { Ok(()) } else { write!(f, "{}", OneLine(&place)) }
            }
            _ => Ok(()),
        }
    }
}

/// The path of a source file without the folders of Cargo and of the compiler, which are long and say nothing.
fn short(file: &str) -> &str {
    let after = |marker: &str, skipped: usize| {
        let rest = file.split_once(marker)?.1;
        rest.splitn(skipped + 1, '/').nth(skipped)
    };
    // Files of std are at `/rustc/HASH/library/std/src/..`, or where rust-src is installed. Others are at
    // `../registry/src/INDEX/redis-1.0.0/src/..` or `../git/checkouts/NAME-HASH/REVISION/src/..`.
    after("/rustc/", 2)
        .or_else(|| after("/lib/rustlib/src/rust/library/", 0))
        .or_else(|| after("/registry/src/", 1))
        .or_else(|| after("/git/checkouts/", 0))
        .unwrap_or(file)
}

/// The crates and libraries of some frames: `std and tokio`.
struct Owners<'a>(&'a [Frame]);

impl Display for Owners<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut owners: Vec<&str> = Vec::new();
        for frame in self.0 {
            let owner = owner(frame);
            if !owners.contains(&owner) {
                owners.push(owner);
            }
        }
        match &*owners {
            [] => Ok(()),
            [one] => write!(f, "{}", OneLine(one)),
            [init @ .., last] if init.len() < 3 => {
                let init: Vec<String> = init.iter().map(|owner| OneLine(owner).to_string()).collect();
                write!(f, "{} and {}", init.join(", "), OneLine(last))
            }
            [a, b, rest @ ..] => write!(f, "{}, {} and {} more", OneLine(a), OneLine(b), rest.len()),
        }
    }
}

/// The crate of a function. If the source file is in cargo's registry, this is the crate of that file, so the code of a
/// macro belongs to the macro's crate. Otherwise it is the crate of the first path in the function's name: `futures`
/// for `<F as futures::Future>::poll`. If there is no path, it is the file name of the program or library.
fn owner(frame: &Frame) -> &str {
    let by_file = frame.file.as_deref().and_then(|file| {
        let is_of_registry = file.contains("/registry/src/");
        short(file).split('/').next()?.rsplit_once('-').filter(|_| is_of_registry).map(|(name, _)| name)
    });
    let starts = |char: char| char.is_alphabetic() || char == '_';
    let paths = frame.function.split(|char: char| !(char.is_alphanumeric() || char == '_' || char == ':'));
    let mut by_name = paths.filter_map(|path| path.split_once("::")).map(|(owner, _)| owner);
    match by_file.or_else(|| by_name.find(|owner| owner.starts_with(starts))) {
        Some("core" | "alloc" | "std") => "std",
        Some(owner) => owner,
        None if frame.function.starts_with("__rust") => "std",
        None => frame.module.as_deref().unwrap_or("no known module"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_short() {
        for (file, expected) in [
            ("/rustc/59807616e1fa/library/std/src/net/tcp.rs", "std/src/net/tcp.rs"),
            (
                "/home/me/.rustup/x/lib/rustlib/src/rust/library/core/src/ops/function.rs",
                "core/src/ops/function.rs",
            ),
            (
                "/home/me/.cargo/registry/src/index.crates.io-1949cf8c/redis-1.0.0/src/lib.rs",
                "redis-1.0.0/src/lib.rs",
            ),
            (
                "/home/me/.cargo/git/checkouts/tokio-377c595163f99a10/abcdef0/src/lib.rs",
                "tokio-377c595163f99a10/abcdef0/src/lib.rs",
            ),
            ("/home/me/shop/src/main.rs", "/home/me/shop/src/main.rs"),
            ("src/main.rs", "src/main.rs"),
            ("/rustc/x", "/rustc/x"),
            ("", ""),
        ] {
            assert_eq!(short(file), expected);
        }
    }

    #[test]
    fn owners_of_functions() {
        let owner_in = |function: &str, file: Option<&str>| {
            let module = Some("libc.so.6".to_owned());
            let (file, line, inlined, foreign, offset) = (file.map(Into::into), None, false, true, 0);
            owner(&Frame { function: function.into(), file, line, inlined, foreign, module, offset })
                .to_owned()
        };
        for (function, expected) in [
            ("tokio::runtime::park::Inner::park", "tokio"),
            ("<alloc::boxed::Box<F> as core::ops::function::FnOnce<A>>::call_once", "std"),
            ("<&mut dyn std::io::Read as std::io::Read>::read", "std"),
            ("core::ptr::drop_in_place<shop::Cart>", "std"),
            ("<F as futures::Future>::poll", "futures"),
            ("<[T] as futures_util::Many>::f", "futures_util"),
            ("__libc_start_main", "libc.so.6"),
            ("libc.so.6+0x1234", "libc.so.6"),
            ("__rust_try", "std"),
        ] {
            assert_eq!(owner_in(function, None), expected, "{function}");
        }
        // A closure that a macro has made belongs to the macro's crate.
        let file =
            "/home/me/.cargo/registry/src/index.crates.io-1949cf8c/tokio-util-1.53.0/src/macros/join.rs";
        assert_eq!(owner_in("shop::show::{{closure}}", Some(file)), "tokio-util");
    }
}
