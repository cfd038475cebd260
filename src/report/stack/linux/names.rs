//! Names of functions, from the files of the program and its libraries.
//!
//! Each file has a loader of its own, so no lock is shared with the backtraces of the program. A file is used only if
//! it is the build that is loaded.

use std::collections::HashMap;
use std::fs::{self, File};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::sync::Arc;

use addr2line::Loader;

use super::super::raw::RawStack;
use super::elf;
use super::modules::{DELETED, Mapping, Module};
use crate::report::contents::{Frame, Stack};
use crate::report::foreign::{is_foreign, is_of_static_library, is_own};
use crate::scope::ReadMemory;
use crate::time::clock;

/// The time for all names of one stack, in nanoseconds. After that time no more names are searched for.
const BUDGET: u64 = 10_000_000_000;

/// A file is closed if it was not used for this time, in nanoseconds.
const UNUSED: u64 = 60_000_000_000;

/// The names of at most this many addresses are kept.
const MOST_KEPT: usize = 8192;

/// Of a long stack, only the `INNER` innermost frames and the `OUTER` outermost frames are kept.
const INNER: usize = 192;
const OUTER: usize = 64;

/// Files with more bytes than this are not opened.
const MOST_BYTES: u64 = 4 << 30;

/// Where the names of a module come from.
struct Source {
    /// The module's file. `None` if the file cannot be used: see [`open`].
    loader: Option<Loader>,
    used: u64,
}

#[derive(Default)]
pub(crate) struct Names {
    /// The key is the path of the module, and its build id.
    sources: HashMap<(String, Vec<u8>), Source>,
    known: HashMap<(u64, u64, Vec<u8>), Vec<Frame>>,
}

impl std::fmt::Debug for Names {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Names").field("sources", &self.sources.len()).finish_non_exhaustive()
    }
}

impl Names {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// The stack with names. `within`: the address of the frame of a scope. If it is given, the stack ends with the
    /// function that opened the scope.
    pub(crate) fn resolve(&mut self, raw: &RawStack, within: Option<u64>) -> Stack {
        let now = clock::real_now();
        let mut stack = Stack { frames: Vec::new(), truncated: raw.truncated, approximate: raw.approximate };
        let count = raw.frames.len();
        // How many frames are inside the scope: those that end (`cfa`) at or below the address of the scope.
        let inside = within.map(|scope| raw.frames.iter().take_while(|frame| frame.cfa <= scope).count());
        let shown = inside.unwrap_or(count);
        let left_out = shown.saturating_sub(INNER + OUTER);
        let is_static = raw.modules.is_static();
        for (index, frame) in raw.frames.iter().enumerate() {
            if left_out > 0 && index == INNER {
                stack.frames.push(Frame::with_name(format!("({left_out} frames are left out here)")));
            }
            if raw.gap == Some(index) {
                let gap = "(frames are missing here: the stack is larger than its copy)";
                stack.frames.push(Frame::with_name(gap));
            }
            if (INNER..INNER + left_out).contains(&index) {
                continue;
            }
            let is_late = clock::real_now().saturating_sub(now) > BUDGET;
            let before = stack.frames.len();
            let module = raw.modules.get(frame.address);
            self.push(module, frame.address, is_static, is_late, now, &mut stack.frames);
            let is_own =
                stack.frames[before..].iter().all(|frame| is_own(&frame.function, frame.file.as_deref()));
            // The first function outside the scope that is not of this crate has opened the scope. The stack ends with
            // it.
            if inside.is_some_and(|inside| index >= inside) && !is_own {
                // If the stack was cut at this frame, the frame's end is not known, so the frame may still be inside
                // the scope.
                stack.truncated = raw.truncated && index + 1 == count;
                break;
            }
        }
        self.close_unused(now);
        stack
    }

    fn push(
        &mut self,
        module: Option<&Arc<Module>>,
        address: u64,
        is_static: bool,
        is_late: bool,
        now: u64,
        frames: &mut Vec<Frame>,
    ) {
        let Some(module) = module else {
            frames.push(Frame { offset: address, ..Frame::with_name(format!("{address:#x}")) });
            return;
        };
        let key = (address, module.image.bias, module.image.build_id.clone());
        if let Some(known) = self.known.get(&key) {
            frames.extend_from_slice(known);
            return;
        }
        if is_late {
            frames.push(nameless(module, address));
            return;
        }
        let loader = self.source(module, now).loader.as_ref();
        let found = loader.map(|loader| named(loader, module, address, is_static));
        let found =
            found.filter(|found| !found.is_empty()).unwrap_or_else(|| vec![nameless(module, address)]);
        frames.extend_from_slice(&found);
        if self.known.len() >= MOST_KEPT {
            self.known.clear();
        }
        self.known.insert(key, found);
    }

    fn source(&mut self, module: &Module, now: u64) -> &Source {
        let key = (module.mapping.path.clone(), module.image.build_id.clone());
        let source = self.sources.entry(key).or_insert_with(|| Source { loader: open(module), used: now });
        source.used = now;
        source
    }

    fn close_unused(&mut self, now: u64) {
        self.sources.retain(|_, source| now.saturating_sub(source.used) < UNUSED);
    }
}

/// A file that is read like memory.
struct Bytes<'a>(&'a File);

impl ReadMemory for Bytes<'_> {
    fn read(&self, address: u64, into: &mut [u8]) -> usize {
        self.0.read_at(into, address).unwrap_or(0)
    }
}

/// Opens the module's file, if it is the build that is loaded.
fn open(module: &Module) -> Option<Loader> {
    let mapping = &module.mapping;
    if !mapping.path.starts_with('/') {
        return None;
    }
    candidates(mapping).into_iter().find_map(|path| {
        let file = File::open(&path).ok()?;
        let metadata = file.metadata().ok()?;
        if metadata.len() > MOST_BYTES {
            return None;
        }
        let is_same = match elf::build_id_of_file(&Bytes(&file)) {
            Some(id) => id == module.image.build_id,
            // Without a build id, only the same inode shows that this is the file that is mapped.
            None => module.image.build_id.is_empty() && metadata.ino() == mapping.inode,
        };
        is_same.then(|| Loader::new(&path).ok()).flatten()
    })
}

/// Paths at which the module's file may be found, the surest first.
fn candidates(mapping: &Mapping) -> Vec<String> {
    let path = mapping.path.strip_suffix(DELETED).unwrap_or(&mapping.path);
    let program = fs::read_link("/proc/self/exe").ok();
    let is_program = program.is_some_and(|program| program.to_str() == Some(&mapping.path));
    let mut candidates = Vec::new();
    if is_program {
        // This is the file that runs, even if the file at `path` was replaced or deleted.
        candidates.push("/proc/self/exe".to_owned());
    }
    candidates.push(path.to_owned());
    // This opens the file even if it was deleted. But only a privileged process may do so.
    candidates.extend(
        mapping.code.first().map(|code| format!("/proc/self/map_files/{:x}-{:x}", code.start, code.end)),
    );
    candidates
}

/// The functions at an address, innermost first: the inlined functions, then the function into which they were inlined.
/// `is_static`: the program contains the C library.
fn named(loader: &Loader, module: &Module, address: u64, is_static: bool) -> Vec<Frame> {
    let offset = address.wrapping_sub(module.image.bias);
    let name = module.mapping.name();
    let mut found = Vec::new();
    if let Ok(mut frames) = loader.find_frames(offset) {
        while let Ok(Some(frame)) = frames.next() {
            let Some(function) = frame.function.as_ref().and_then(|function| function.raw_name().ok()) else {
                continue;
            };
            let (file, line) = frame.location.map_or((None, None), |location| (location.file, location.line));
            found.push(Frame {
                function: demangled(&function),
                file: file.map(str::to_owned),
                line,
                inlined: true,
                foreign: false,
                module: Some(name.to_owned()),
                offset,
            });
        }
    }
    if let Some(physical) = found.last_mut() {
        physical.inlined = false;
    }
    // Debug information often has only the last part of a function's name. The symbol table has the full path, so its
    // name is taken instead.
    let symbol = loader.find_symbol(offset);
    let file = found.last().and_then(|physical| physical.file.as_deref());
    let is_of_library = is_static && symbol.is_some_and(|symbol| is_of_static_library(symbol, file));
    if let Some(symbol) = symbol {
        let symbol = demangled(symbol);
        match found.last_mut() {
            Some(physical) if !physical.function.contains("::") && symbol.contains("::") => {
                physical.function = symbol;
            }
            Some(_) => {}
            None => found.push(Frame { offset, module: Some(name.to_owned()), ..Frame::with_name(symbol) }),
        }
    }
    for frame in &mut found {
        frame.foreign = is_of_library || is_foreign(&frame.function, frame.file.as_deref(), name);
    }
    found
}

/// The demangled name, without the hash at its end.
fn demangled(symbol: &str) -> String {
    format!("{:#}", rustc_demangle::demangle(symbol))
}

/// A frame for a function without a name. It shows the module and, if known, where the function begins in it.
fn nameless(module: &Module, address: u64) -> Frame {
    let name = module.mapping.name();
    let offset = address.wrapping_sub(module.image.bias);
    let function = match module.image.function_start(address) {
        Some(start) if module.image.covers(address) => {
            format!("{name}!fn_{:x}", start.wrapping_sub(module.image.bias))
        }
        _ => format!("{name}+{offset:#x}"),
    };
    let foreign = is_foreign("", None, name);
    Frame { foreign, module: Some(name.to_owned()), offset, ..Frame::with_name(function) }
}
