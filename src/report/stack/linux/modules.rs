//! Finds the program and the loaded libraries in `/proc/self/maps`, and reads their headers and tables from memory.
//! Does not take the loader's lock, because a stuck thread may hold it.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use super::elf::{self, Image};
use crate::report::foreign::is_library;
use crate::scope::ReadMemory;

/// A file that is loaded (the program, or a library), or the kernel's own page of code.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Mapping {
    /// The path, as the system gives it: with ` (deleted)` if the file is no more.
    pub(super) path: String,
    pub(super) device: String,
    pub(super) inode: u64,
    /// Where the file's header is mapped.
    pub(super) base: u64,
    /// Where the file's code is mapped.
    pub(super) code: Vec<Range<u64>>,
}

impl Mapping {
    pub(super) fn has(&self, pc: u64) -> bool {
        self.code.iter().any(|range| range.contains(&pc))
    }

    pub(super) fn end(&self) -> u64 {
        self.code.iter().map(|range| range.end).max().unwrap_or(self.base)
    }

    pub(super) fn name(&self) -> &str {
        let path = self.path.strip_suffix(DELETED).unwrap_or(&self.path);
        path.rsplit('/').next().unwrap_or(path)
    }
}

/// Linux adds this to the path of a file that was deleted.
pub(super) const DELETED: &str = " (deleted)";

/// A module whose tables have been read.
#[derive(Debug, Default)]
pub(super) struct Module {
    pub(super) mapping: Mapping,
    pub(super) image: Image,
}

/// The modules of the process. Their tables are read when they are needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Modules {
    mappings: Vec<Mapping>,
    loaded: BTreeMap<u64, Arc<Module>>,
}

impl Modules {
    /// Takes the mappings from a text of `/proc/self/maps`. Keeps the loaded tables of modules that are still there.
    pub(super) fn rescan(&mut self, maps: &str, memory: &impl ReadMemory) {
        self.mappings = parse(maps);
        let mappings = &self.mappings;
        self.loaded.retain(|base, module| {
            // Another library may have been loaded at the same place. Its build identity differs.
            let is_mapped = mappings.iter().any(|mapping| *mapping == module.mapping);
            is_mapped && elf::loaded_build_id(memory, *base).unwrap_or_default() == module.image.build_id
        });
    }

    fn mapping(&self, pc: u64) -> Option<&Mapping> {
        self.mappings.iter().find(|mapping| mapping.has(pc))
    }

    pub(super) fn is_code(&self, pc: u64) -> bool {
        self.mapping(pc).is_some()
    }

    /// The module that has code at `pc`, and whether this call has read the module's tables. `None` if no module has
    /// code there.
    pub(super) fn load(&mut self, pc: u64, memory: &impl ReadMemory) -> Option<(Arc<Module>, bool)> {
        let mapping = self.mapping(pc)?;
        let base = mapping.base;
        if let Some(module) = self.loaded.get(&base) {
            return Some((module.clone(), false));
        }
        let image = elf::loaded(memory, base).unwrap_or_else(|| Image { bias: base, ..Image::default() });
        let module = Arc::new(Module { mapping: mapping.clone(), image });
        self.loaded.insert(base, module.clone());
        Some((module, true))
    }

    /// Whether the C library is a part of the program: no such library is loaded.
    pub(super) fn is_static(&self) -> bool {
        !self.mappings.iter().any(|mapping| mapping.path.starts_with('/') && is_library(mapping.name()))
    }

    /// The module that has code at `pc`, if its tables have been read.
    pub(super) fn get(&self, pc: u64) -> Option<&Arc<Module>> {
        self.loaded.get(&self.mapping(pc)?.base)
    }

    pub(super) fn loaded(&self) -> impl Iterator<Item = &Arc<Module>> {
        self.loaded.values()
    }
}

/// Parses the text of `/proc/self/maps`. Returns for each file where its header and its code are mapped.
fn parse(maps: &str) -> Vec<Mapping> {
    let mut mappings: Vec<Mapping> = Vec::new();
    let mut end = 0;
    for line in maps.lines() {
        let Some(line) = Line::parse(line) else { continue };
        let same_file = |last: &&mut Mapping| {
            last.inode == line.inode && last.device == line.device && last.path == line.path
        };
        let last = mappings.last_mut().filter(same_file);
        // A small file may have its header and its code in one page, which is then mapped two times in a row. The
        // second mapping is the code.
        let is_header = line.offset == 0
            && !(line.is_code
                && line.range.start == end
                && last.as_ref().is_some_and(|last| last.code.is_empty()));
        end = line.range.end;
        if is_header {
            mappings.push(Mapping {
                path: line.path.to_owned(),
                device: line.device.to_owned(),
                inode: line.inode,
                base: line.range.start,
                code: if line.is_code { vec![line.range] } else { Vec::new() },
            });
        } else if line.is_code
            && let Some(last) = last
        {
            last.code.push(line.range);
        }
    }
    mappings.retain(|mapping| !mapping.code.is_empty());
    mappings
}

struct Line<'a> {
    range: Range<u64>,
    is_code: bool,
    offset: u64,
    device: &'a str,
    inode: u64,
    path: &'a str,
}

impl<'a> Line<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut words = line.splitn(6, ' ');
        let (start, end) = words.next()?.split_once('-')?;
        let hex = |text| u64::from_str_radix(text, 16).ok();
        let range = hex(start)?..hex(end)?;
        let is_code = words.next()?.as_bytes().get(2) == Some(&b'x');
        let offset = hex(words.next()?)?;
        let device = words.next()?;
        let inode = words.next()?.parse().ok()?;
        let path = words.next()?.trim_ascii_start();
        let is_file = path.starts_with('/') || path == "[vdso]";
        is_file.then_some(Self { range, is_code, offset, device, inode, path })
    }
}
