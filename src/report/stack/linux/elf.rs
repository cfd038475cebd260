//! Reads ELF files, in memory or as files: segments, unwind tables, build ids. The bytes may be hostile: nothing here
//! panics.

use super::memory;
use crate::scope::ReadMemory;

/// An `.eh_frame` with more bytes than this is not copied. Of an `.eh_frame_hdr`, at most this many bytes are copied.
const MOST_TABLE: u64 = 64 << 20;

/// A file that claims to have more program headers than this is not read.
const MOST_HEADERS: u64 = 256;

const PAGE: u64 = 0xfff;

/// A table, and the address that the file gives it.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) address: u64,
    pub(super) bytes: Vec<u8>,
}

/// What unwinding needs of a module.
#[derive(Clone, Debug, Default)]
pub(super) struct Image {
    /// What is added to an address of the file to get the address in memory.
    pub(super) bias: u64,
    pub(super) build_id: Vec<u8>,
    /// `.eh_frame_hdr`.
    pub(super) index: Table,
    /// `.eh_frame`.
    pub(super) frames: Table,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    in_file: u64,
    in_memory: u64,
}

const LOAD: u32 = 1;
const NOTE: u32 = 4;
const EH_FRAME_HDR: u32 = 0x6474_e550;

pub(super) fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(bytes.get(at..at.checked_add(2)?)?.try_into().ok()?))
}

pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

pub(super) fn i32_at(bytes: &[u8], at: usize) -> Option<i64> {
    Some(i64::from(i32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?)))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// The program headers of the file that begins at `base`.
fn segments(memory: &impl ReadMemory, base: u64) -> Option<Vec<Segment>> {
    let header = memory::bytes(memory, base, 64)?;
    // 64 bits, little endian.
    if header.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let (start, size, count) = (u64_at(&header, 32)?, u16_at(&header, 54)?, u16_at(&header, 56)?);
    if size != 56 || u64::from(count) > MOST_HEADERS {
        return None;
    }
    let table = memory::bytes(memory, base.checked_add(start)?, 56 * usize::from(count))?;
    table
        .chunks_exact(56)
        .map(|entry| {
            Some(Segment {
                kind: u32_at(entry, 0)?,
                offset: u64_at(entry, 8)?,
                address: u64_at(entry, 16)?,
                in_file: u64_at(entry, 32)?,
                in_memory: u64_at(entry, 40)?,
            })
        })
        .collect()
}

fn build_id(notes: &[u8]) -> Option<Vec<u8>> {
    let mut at = 0_usize;
    loop {
        let (name, len, kind) = (u32_at(notes, at)?, u32_at(notes, at + 4)?, u32_at(notes, at + 8)?);
        let name_end = (at + 12).checked_add(usize::try_from(name).ok()?)?;
        let start = name_end.checked_next_multiple_of(4)?;
        let end = start.checked_add(usize::try_from(len).ok()?)?;
        if kind == 3 && notes.get(at + 12..name_end)? == b"GNU\0" {
            return notes.get(start..end).map(<[u8]>::to_vec);
        }
        at = end.checked_next_multiple_of(4)?;
    }
}

/// What is added to an address of the file that is mapped at `base`.
fn bias(base: u64, segments: &[Segment]) -> Option<u64> {
    let loads = segments.iter().filter(|segment| segment.kind == LOAD);
    Some(base.wrapping_sub(loads.map(|segment| segment.address).min()? & !PAGE))
}

/// Reads a module from its mapping in memory. `None` if the headers make no sense.
pub(super) fn loaded(memory: &impl ReadMemory, base: u64) -> Option<Image> {
    let segments = segments(memory, base)?;
    let bias = bias(base, &segments)?;
    let mut image = Image { bias, ..Image::default() };
    image.build_id = id_in_memory(memory, bias, &segments).unwrap_or_default();
    if let Some((index, frames)) = tables(memory, bias, &segments) {
        (image.index, image.frames) = (index, frames);
    }
    Some(image)
}

/// The build id of the file that is mapped at `base`. This reads much less than a read of the whole module.
pub(super) fn loaded_build_id(memory: &impl ReadMemory, base: u64) -> Option<Vec<u8>> {
    let segments = segments(memory, base)?;
    id_in_memory(memory, bias(base, &segments)?, &segments)
}

fn id_in_memory(memory: &impl ReadMemory, bias: u64, segments: &[Segment]) -> Option<Vec<u8>> {
    let notes = segments.iter().filter(|segment| segment.kind == NOTE && segment.in_memory <= 1 << 16);
    let mut notes = notes.filter_map(|note| {
        memory::bytes(memory, bias.wrapping_add(note.address), usize::try_from(note.in_memory).ok()?)
    });
    notes.find_map(|notes| build_id(&notes))
}

/// The build ID of a file. `file` reads the file as if it were memory at address 0.
pub(super) fn build_id_of_file(file: &impl ReadMemory) -> Option<Vec<u8>> {
    let segments = segments(file, 0)?;
    let notes = segments.iter().filter(|segment| segment.kind == NOTE && segment.in_file <= 1 << 16);
    let mut notes =
        notes.filter_map(|note| memory::bytes(file, note.offset, usize::try_from(note.in_file).ok()?));
    notes.find_map(|notes| build_id(&notes))
}

/// Copies `.eh_frame_hdr` and `.eh_frame`; `None` if they cannot be found. The loader keeps no section headers, so the
/// length of `.eh_frame` is found by walking through its entries.
fn tables(memory: &impl ReadMemory, bias: u64, segments: &[Segment]) -> Option<(Table, Table)> {
    let header = segments.iter().find(|segment| segment.kind == EH_FRAME_HDR)?;
    let table = |address: u64, len: u64| {
        let len = usize::try_from(len.min(MOST_TABLE)).ok()?;
        Some(Table { address, bytes: memory::bytes(memory, bias.wrapping_add(address), len)? })
    };
    let index = table(header.address, header.in_memory)?;
    // Version 1.
    if *index.bytes.first()? != 1 {
        return None;
    }
    let value = i32_at(&index.bytes, 4)?;
    let address = match *index.bytes.get(1)? {
        // 0x1b: an offset from the address of the value itself. 0x3b: an offset from the start of `.eh_frame_hdr`.
        0x1b => header.address.wrapping_add(4).wrapping_add_signed(value),
        0x3b => header.address.wrapping_add_signed(value),
        _ => return None,
    };
    let end = segments.iter().filter(|segment| segment.kind == LOAD).find_map(|segment| {
        let end = segment.address.checked_add(segment.in_file)?;
        (segment.address..end).contains(&address).then_some(end)
    })?;
    if end - address > MOST_TABLE {
        return None;
    }
    let mut frames = table(address, end - address)?;
    let mut at = 0_usize;
    loop {
        match u32_at(&frames.bytes, at) {
            Some(0) => {
                at += 4;
                break;
            }
            // `u32::MAX` begins the long form, which no tool writes into this table.
            Some(u32::MAX) | None => break,
            Some(len) => at = at.saturating_add(4).saturating_add(usize::try_from(len).ok()?),
        }
    }
    frames.bytes.truncate(at);
    Some((index, frames))
}

impl Image {
    fn index_base(&self) -> u64 {
        self.bias.wrapping_add(self.index.address)
    }

    /// Whether the index is a sorted table of numbers of 4 bytes, as all tools write it.
    pub(super) fn has_index(&self) -> bool {
        self.index.bytes.get(2..4) == Some(&[0x03, 0x3b])
    }

    fn index_entry(&self, at: usize) -> Option<u64> {
        let at = at.checked_mul(8)?.checked_add(12)?;
        Some(self.index_base().wrapping_add_signed(i32_at(&self.index.bytes, at)?))
    }

    /// The last function that begins at `pc` or before: the number of its entry, and its start.
    fn entry_of(&self, pc: u64) -> Option<(usize, u64)> {
        if !self.has_index() {
            return None;
        }
        let count = usize::try_from(u32_at(&self.index.bytes, 8)?).ok()?;
        let (mut low, mut high) = (0, count.min(self.index.bytes.len() / 8));
        while low < high {
            let middle = usize::midpoint(low, high);
            if self.index_entry(middle)? <= pc {
                low = middle + 1;
            } else {
                high = middle;
            }
        }
        let entry = low.checked_sub(1)?;
        Some((entry, self.index_entry(entry)?))
    }

    /// The start of the last function that begins at `pc` or before. That function may end before `pc`.
    pub(super) fn function_start(&self, pc: u64) -> Option<u64> {
        self.entry_of(pc).map(|(_, start)| start)
    }

    /// The end of the function that contains `pc`. `None` if no function contains it.
    pub(super) fn function_end(&self, pc: u64) -> Option<u64> {
        let (_, start) = self.entry_of(pc)?;
        let len = u32_at(&self.frames.bytes, self.record(pc)?.checked_add(12)?)?;
        Some(start.saturating_add(u64::from(len))).filter(|&end| pc < end)
    }

    /// Whether the tables have a function that contains `pc`. Without an index of the usual form this cannot be told:
    /// then returns `true` if there are tables.
    pub(super) fn covers(&self, pc: u64) -> bool {
        if self.frames.bytes.is_empty() {
            return false;
        }
        if !self.has_index() {
            return true;
        }
        self.function_end(pc).is_some()
    }

    /// The offset in `.eh_frame` of the record of the last function that begins at `pc` or before.
    pub(super) fn record(&self, pc: u64) -> Option<usize> {
        let (entry, _) = self.entry_of(pc)?;
        let at = entry.checked_mul(8)?.checked_add(16)?;
        let record = self.index_base().wrapping_add_signed(i32_at(&self.index.bytes, at)?);
        usize::try_from(record.wrapping_sub(self.bias.wrapping_add(self.frames.address))).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Mapped(Vec<u8>);

    impl ReadMemory for Mapped {
        fn read(&self, address: u64, into: &mut [u8]) -> usize {
            let from = self.0.get(usize::try_from(address - BASE).unwrap()..).unwrap_or_default();
            let len = from.len().min(into.len());
            into[..len].copy_from_slice(&from[..len]);
            len
        }
    }

    const BASE: u64 = 0x7000_0000;

    #[test]
    fn the_first_of_two_build_ids_counts_everywhere() {
        let ids = [b"first id", b"other id"];
        let (notes, note_len) = (64 + 3 * 56, 24_u64);
        let mut file = b"\x7fELF\x02\x01".to_vec();
        file.resize(64, 0);
        file[32] = 64;
        file[54] = 56;
        file[56] = 3;
        for (kind, at, len) in [(LOAD, 0, 4096), (NOTE, notes, note_len), (NOTE, notes + note_len, note_len)]
        {
            file.extend(kind.to_le_bytes());
            file.extend([0; 4]);
            file.extend([at, at, at, len, len, 0].into_iter().flat_map(u64::to_le_bytes));
        }
        for id in ids {
            file.extend([4, 8, 3].into_iter().flat_map(u32::to_le_bytes));
            file.extend(b"GNU\0");
            file.extend(id);
        }
        let mapped = Mapped(file);
        assert_eq!(loaded(&mapped, BASE).unwrap().build_id, ids[0]);
        assert_eq!(loaded_build_id(&mapped, BASE).unwrap(), ids[0]);
    }
}
