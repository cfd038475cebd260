use std::fmt;
use std::ops::Range;
use std::sync::Arc;

/// A match: a part of the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Match<'h> {
    pub(super) haystack: &'h str,
    pub(super) start: usize,
    pub(super) end: usize,
}

impl<'h> Match<'h> {
    pub(super) fn of(haystack: &'h str, offsets: &[usize]) -> Self {
        // `\K` in a look-ahead can move the beginning of a match beyond its end. Then the match is empty.
        Self { haystack, start: offsets[0].min(offsets[1]), end: offsets[1] }
    }

    /// The byte where the match begins.
    pub fn start(&self) -> usize {
        self.start
    }

    /// The byte after the end of the match.
    pub fn end(&self) -> usize {
        self.end
    }

    /// The byte range of the match.
    pub fn range(&self) -> Range<usize> {
        self.start..self.end
    }

    /// The text of the match.
    pub fn as_str(&self) -> &'h str {
        &self.haystack[self.start..self.end]
    }
}

/// A match with its groups.
#[derive(Clone)]
pub struct Captures<'h> {
    pub(super) haystack: &'h str,
    pub(super) offsets: Box<[usize]>,
    pub(super) names: Arc<[(String, usize)]>,
}

impl<'h> Captures<'h> {
    /// The group with this number; `None` if the group is not in the match. Group 0 is the whole match.
    pub fn get(&self, group: usize) -> Option<Match<'h>> {
        let offsets = self.offsets.get(group.checked_mul(2)?..)?;
        if *offsets.first()? == usize::MAX {
            return None;
        }
        Some(Match::of(self.haystack, offsets))
    }

    /// The group with this name; `None` if the group is not in the match.
    pub fn name(&self, name: &str) -> Option<Match<'h>> {
        let mut named = self.names.iter().filter(|(other, _)| other == name);
        named.find_map(|&(_, group)| self.get(group))
    }

    /// The number of groups, the whole match included.
    #[allow(clippy::len_without_is_empty)] // there is always the whole match
    pub fn len(&self) -> usize {
        self.offsets.len() / 2
    }

    /// The groups in order, the whole match first.
    pub fn iter(&self) -> impl Iterator<Item = Option<Match<'h>>> + '_ {
        (0..self.len()).map(|group| self.get(group))
    }

    pub(super) fn range(&self) -> Range<usize> {
        Match::of(self.haystack, &self.offsets).range()
    }
}

/// The text of a group.
///
/// # Panics
///
/// If the group is not in the match.
impl std::ops::Index<usize> for Captures<'_> {
    type Output = str;

    fn index(&self, group: usize) -> &str {
        self.get(group).unwrap_or_else(|| panic!("there is no group {group} in the match")).as_str()
    }
}

impl fmt::Debug for Captures<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter().map(|group| group.map(|group| group.as_str()))).finish()
    }
}
