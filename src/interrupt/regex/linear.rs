//! An engine whose time is linear in the length of the text. A search checks the scope every 16 KiB.
//!
//! It is the engine of the crate `regex`, with the same syntax and the same matches. At worst, a search of some
//! hundred MiB of text takes a second.
//!
//! If the pattern bounds the length of its matches, the search runs at full speed, chunk by chunk. For any other
//! pattern the search follows the engine's automaton state by state. Such a search takes up to four times as long, and
//! more if a plain search could skip ahead to a literal.
//!
//! A search cannot be interrupted if three things come together: the pattern does not bound the length of its matches,
//! the pattern has a Unicode word boundary, and the text is not ASCII. [`captures`](Regex::captures) finds the groups
//! inside a match without checks of the scope.
//!
//! ```
//! use std::time::Duration;
//! use timebox::regex::linear::Regex;
//! use timebox::timeout;
//!
//! let number = Regex::new(r"\d+").unwrap();
//! let sum = timeout(Duration::from_secs(1), || {
//!     let found = number.find_iter("1, 20 and 300");
//!     found.map(|found| Ok(found?.as_str().parse::<u32>().unwrap())).sum::<timebox::Result<u32>>()
//! });
//! assert_eq!(sum.unwrap(), 321);
//! ```

use std::borrow::Cow;
use std::fmt;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use regex_automata::hybrid::LazyStateID;
use regex_automata::hybrid::dfa::{Cache, DFA};
use regex_automata::hybrid::regex as hybrid;
use regex_automata::util::primitives::NonMaxUsize;
use regex_automata::util::syntax;
use regex_automata::{Anchored, Input, meta};

use super::{CaptureMatches, Captures, Match, Matches, Search, Steps, replace_all};
use crate::error::TimeoutError;
use crate::scope::innermost;
use crate::sync::{Mutex, lock};
use crate::thread::Thread;

/// How many bytes of text are searched between two checks of the scope.
const CHUNK: usize = 16 << 10;
/// The text is searched in chunks if no match can be longer than this, in bytes. A match may begin in one chunk and end
/// in the next, so the search of a chunk may read this many bytes of the next chunk.
const MAX_OVERLAP: usize = 4 << 10;

/// A regular expression without back-references and look-around. A search ends with the scope, with the exceptions that
/// the [module](self) names.
///
/// Compilation cannot be interrupted. For the largest patterns that are accepted it takes a tenth of a second.
pub struct Regex {
    pattern: Box<str>,
    whole: meta::Regex,
    plan: Plan,
    names: Arc<[(String, usize)]>,
}

impl UnwindSafe for Regex {}
impl RefUnwindSafe for Regex {}

/// How to search for a pattern.
enum Plan {
    /// The search goes chunk by chunk. No match is longer than this many bytes.
    Chunks(usize),
    /// The search follows the automata state by state, because the pattern does not bound the length of its matches.
    Stepwise(Box<Stepwise>),
    /// The whole text is searched at once, without checks of the scope, because the automata cannot be made.
    Whole,
}

/// A pattern that the engine rejects, or that is too large.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// If the pattern is no regular expression of this engine, or is too large.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let hir = syntax::parse(pattern).map_err(|error| PatternError(error.to_string()))?;
        let whole = meta::Regex::new(pattern).map_err(|error| {
            PatternError(error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        let plan = match hir.properties().maximum_len() {
            Some(most) if most <= MAX_OVERLAP => Plan::Chunks(most),
            _ => Stepwise::new(pattern).map_or(Plan::Whole, |stepwise| Plan::Stepwise(Box::new(stepwise))),
        };
        let groups = whole.group_info().pattern_names(regex_automata::PatternID::ZERO);
        let names = groups.enumerate().filter_map(|(group, name)| Some((name?.to_owned(), group))).collect();
        Ok(Self { pattern: pattern.into(), whole, plan, names })
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether there is a match.
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over.
    #[track_caller]
    pub fn is_match(&self, haystack: &str) -> Result<bool, TimeoutError> {
        Ok(self.find(haystack)?.is_some())
    }

    /// The leftmost match.
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over.
    #[track_caller]
    pub fn find<'h>(&self, haystack: &'h str) -> Result<Option<Match<'h>>, TimeoutError> {
        self.find_at(haystack, 0, Location::caller())
    }

    /// The leftmost match with its groups.
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over.
    #[track_caller]
    pub fn captures<'h>(&self, haystack: &'h str) -> Result<Option<Captures<'h>>, TimeoutError> {
        self.captures_at(haystack, 0, Location::caller())
    }

    /// All matches that do not overlap, from left to right. If a search fails, its error is the last item.
    #[track_caller]
    pub fn find_iter<'r, 'h>(&'r self, haystack: &'h str) -> Matches<'r, 'h> {
        Matches { regex: self, steps: Steps::new(haystack, Location::caller()) }
    }

    /// Like [`find_iter`](Self::find_iter), with the groups of each match.
    #[track_caller]
    pub fn captures_iter<'r, 'h>(&'r self, haystack: &'h str) -> CaptureMatches<'r, 'h> {
        CaptureMatches { regex: self, steps: Steps::new(haystack, Location::caller()) }
    }

    /// The text with each match replaced by the result of `replacement`.
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over.
    #[track_caller]
    pub fn replace_all<'h, S: AsRef<str>>(
        &self,
        haystack: &'h str,
        replacement: impl FnMut(&Captures<'h>) -> S,
    ) -> Result<Cow<'h, str>, TimeoutError> {
        replace_all(self.captures_iter(haystack), haystack, replacement)
    }

    /// Searches chunk by chunk. A match that begins in a chunk ends at most `most` bytes after the chunk. The engine
    /// receives the whole text and the part to search, so that anchors and word boundaries see the text around the
    /// part.
    fn find_in_chunks(
        &self,
        haystack: &str,
        mut at: usize,
        most: usize,
        look: &mut impl FnMut() -> Result<(), TimeoutError>,
    ) -> Result<Option<(usize, usize)>, TimeoutError> {
        loop {
            look()?;
            let mut limit = at.saturating_add(CHUNK).min(haystack.len());
            while !haystack.is_char_boundary(limit) {
                limit -= 1;
            }
            let end = limit.saturating_add(most).min(haystack.len());
            let found = self.whole.search(&Input::new(haystack).span(at..end));
            match found {
                Some(found) if found.start() <= limit => return Ok(Some((found.start(), found.end()))),
                _ if limit == haystack.len() => return Ok(None),
                _ => at = limit,
            }
        }
    }

    fn find_whole(&self, haystack: &str, at: usize) -> Option<(usize, usize)> {
        let found = self.whole.search(&Input::new(haystack).range(at..))?;
        Some((found.start(), found.end()))
    }
}

impl Search for Regex {
    fn find_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: &'static Location<'static>,
    ) -> Result<Option<Match<'h>>, TimeoutError> {
        let mut look = || {
            Thread::with(|thread| {
                innermost(thread, |scope| scope.map_or(Ok(()), |scope| scope.checkpoint_at(location)))
            })
        };
        look()?;
        let found = match &self.plan {
            Plan::Whole => self.find_whole(haystack, at),
            Plan::Chunks(most) => self.find_in_chunks(haystack, at, *most, &mut look)?,
            Plan::Stepwise(stepwise) => match stepwise.find(haystack, at, &mut look) {
                Ok(found) => found,
                Err(Stop::Over(error)) => return Err(error),
                Err(Stop::Unsupported) => self.find_whole(haystack, at),
            },
        };
        Ok(found.map(|(start, end)| Match { haystack, start, end }))
    }

    fn captures_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: &'static Location<'static>,
    ) -> Result<Option<Captures<'h>>, TimeoutError> {
        let Some(found) = self.find_at(haystack, at, location)? else { return Ok(None) };
        let mut groups = self.whole.create_captures();
        let input = Input::new(haystack).range(found.range()).anchored(Anchored::Yes);
        self.whole.search_captures(&input, &mut groups);
        let slots = groups.slots().iter().map(|slot| slot.map_or(usize::MAX, NonMaxUsize::get));
        Ok(Some(Captures { haystack, offsets: slots.collect(), names: Arc::clone(&self.names) }))
    }
}

impl fmt::Debug for Regex {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Regex").field(&self.pattern).finish()
    }
}

impl std::str::FromStr for Regex {
    type Err = PatternError;

    fn from_str(pattern: &str) -> Result<Self, PatternError> {
        Self::new(pattern)
    }
}

/// The automata of a pattern, which a search follows state by state. A state is made when a search first reaches it.
struct Stepwise {
    automata: hybrid::Regex,
    /// The caches that no search uses now. A search takes a cache from here, or makes one if there is none. When the
    /// search ends, it puts the cache back.
    caches: Mutex<Vec<hybrid::Cache>>,
}

/// Why a stepwise search did not run to its end.
enum Stop {
    Over(TimeoutError),
    /// The pattern has a Unicode word boundary, and the text has a byte that is not ASCII. The automaton cannot search
    /// such a text, so the whole text is searched without checks of the scope.
    Unsupported,
}

impl Stepwise {
    fn new(pattern: &str) -> Option<Self> {
        let config = DFA::config().unicode_word_boundary(true);
        let automata = hybrid::Regex::builder().dfa(config).build(pattern).ok()?;
        Some(Self { automata, caches: Mutex::new(Vec::new()) })
    }

    fn find(
        &self,
        haystack: &str,
        mut at: usize,
        look: &mut impl FnMut() -> Result<(), TimeoutError>,
    ) -> Result<Option<(usize, usize)>, Stop> {
        let kept = lock(&self.caches).pop();
        let mut cache = kept.unwrap_or_else(|| self.automata.create_cache());
        let found = loop {
            match self.find_once(&mut cache, haystack, at, look) {
                // An empty match inside a character does not count. So the search goes on at the next byte.
                Ok(Some((start, end))) if start == end && !haystack.is_char_boundary(start) => at = start + 1,
                found => break found,
            }
        };
        lock(&self.caches).push(cache);
        found
    }

    fn find_once(
        &self,
        cache: &mut hybrid::Cache,
        haystack: &str,
        at: usize,
        look: &mut impl FnMut() -> Result<(), TimeoutError>,
    ) -> Result<Option<(usize, usize)>, Stop> {
        let (forward, backward) = cache.as_parts_mut();
        let input = Input::new(haystack).range(at..);
        let mut walk = Walk::begin(self.automata.forward(), forward, |dfa, cache| {
            dfa.start_state_forward(cache, &input).ok()
        })?;
        let mut position = at;
        for chunk in haystack.as_bytes()[at..].chunks(CHUNK) {
            for &byte in chunk {
                walk.step(byte, position)?;
                if walk.ended {
                    break;
                }
                position += 1;
            }
            if walk.ended {
                break;
            }
            look().map_err(Stop::Over)?;
        }
        if !walk.ended {
            walk.end_of_text(haystack.len())?;
        }
        let Some(end) = walk.last else { return Ok(None) };

        let input = Input::new(haystack).range(at..end).anchored(Anchored::Yes);
        let mut walk = Walk::begin(self.automata.reverse(), backward, |dfa, cache| {
            dfa.start_state_reverse(cache, &input).ok()
        })?;
        let mut position = end;
        for chunk in haystack.as_bytes()[at..end].rchunks(CHUNK) {
            for &byte in chunk.iter().rev() {
                walk.step(byte, position)?;
                if walk.ended {
                    break;
                }
                position -= 1;
            }
            if walk.ended {
                break;
            }
            look().map_err(Stop::Over)?;
        }
        if !walk.ended {
            match at.checked_sub(1) {
                Some(before) => walk.step(haystack.as_bytes()[before], at)?,
                None => walk.end_of_text(at)?,
            }
        }
        Ok(walk.last.map(|start| (start, end)))
    }
}

/// A walk through the states of an automaton. The automaton reports a match one byte late. So a match that is reported
/// at the step for a byte ends just before that byte.
struct Walk<'a> {
    dfa: &'a DFA,
    cache: &'a mut Cache,
    state: LazyStateID,
    /// Where the last match ends. In a backward walk: where it starts.
    last: Option<usize>,
    ended: bool,
}

impl<'a> Walk<'a> {
    fn begin(
        dfa: &'a DFA,
        cache: &'a mut Cache,
        start: impl FnOnce(&DFA, &mut Cache) -> Option<LazyStateID>,
    ) -> Result<Self, Stop> {
        let state = start(dfa, cache).ok_or(Stop::Unsupported)?;
        Ok(Self { dfa, cache, state, last: None, ended: state.is_dead() })
    }

    /// Follows the transition for a byte. `position` is the start of the byte. In a backward walk it is the end of the
    /// byte.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn step(&mut self, byte: u8, position: usize) -> Result<(), Stop> {
        self.state = self.dfa.next_state(self.cache, self.state, byte).map_err(|_| Stop::Unsupported)?;
        if self.state.is_tagged() { self.note(position) } else { Ok(()) }
    }

    fn end_of_text(&mut self, position: usize) -> Result<(), Stop> {
        self.state = self.dfa.next_eoi_state(self.cache, self.state).map_err(|_| Stop::Unsupported)?;
        self.note(position)
    }

    fn note(&mut self, position: usize) -> Result<(), Stop> {
        if self.state.is_match() {
            self.last = Some(position);
        } else if self.state.is_quit() {
            return Err(Stop::Unsupported);
        }
        self.ended = self.state.is_dead();
        Ok(())
    }
}
