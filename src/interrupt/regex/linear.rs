//! An engine whose time is linear in the text, stopped every few KiB of it.
//!
//! It is that of the crate `regex`, with its syntax and its matches. One search takes a second for some hundred MiB at
//! worst, and a text is soon searched often; so here the scope is looked at on the way. A pattern that bounds the length
//! of its matches is searched for at full speed, chunk by chunk. Any other is followed state by state, which takes up to
//! four times as long, and more where the plain search skips ahead to a literal.
//!
//! A Unicode word boundary in a pattern without bounds makes a search of text that is not ASCII uninterruptible: that one
//! goes through to its end.
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

type Place = &'static Location<'static>;

/// How much text is searched between two looks at the scope, in bytes.
const CHUNK: usize = 16 << 10;
/// Matches may be this long for a search in chunks, which reads so much twice.
const BOUND: usize = 4 << 10;

/// A regular expression without back-references and look-around, that ends with its scope.
///
/// Compiling cannot be interrupted, and takes a tenth of a second for the largest patterns that are not refused.
pub struct Regex {
    pattern: Box<str>,
    whole: meta::Regex,
    plan: Plan,
    names: Arc<[(String, usize)]>,
}

impl UnwindSafe for Regex {}
impl RefUnwindSafe for Regex {}

enum Plan {
    /// No match is longer than so many bytes.
    Chunks(usize),
    Stepwise(Box<Stepwise>),
    /// At one go.
    Whole,
}

/// A pattern that the engine does not understand, or finds too large.
#[derive(Clone, Debug, thiserror::Error)]
#[error("{0}")]
pub struct PatternError(String);

impl Regex {
    /// Compiles a pattern.
    ///
    /// # Errors
    ///
    /// If it is no regular expression of this engine, or too large.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let hir = syntax::parse(pattern).map_err(|error| PatternError(error.to_string()))?;
        let whole = meta::Regex::new(pattern).map_err(|error| {
            PatternError(error.syntax_error().map_or_else(|| error.to_string(), ToString::to_string))
        })?;
        let plan = match hir.properties().maximum_len() {
            Some(most) if most <= BOUND => Plan::Chunks(most),
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
    /// That of the scope, as soon as it is over.
    #[track_caller]
    pub fn is_match(&self, haystack: &str) -> Result<bool, TimeoutError> {
        Ok(self.find(haystack)?.is_some())
    }

    /// The leftmost match.
    ///
    /// # Errors
    ///
    /// That of the scope, as soon as it is over.
    #[track_caller]
    pub fn find<'h>(&self, haystack: &'h str) -> Result<Option<Match<'h>>, TimeoutError> {
        self.find_at(haystack, 0, Location::caller())
    }

    /// The leftmost match with its groups.
    ///
    /// # Errors
    ///
    /// That of the scope, as soon as it is over.
    #[track_caller]
    pub fn captures<'h>(&self, haystack: &'h str) -> Result<Option<Captures<'h>>, TimeoutError> {
        self.captures_at(haystack, 0, Location::caller())
    }

    /// All matches that do not overlap, from left to right. An error is the last item.
    #[track_caller]
    pub fn find_iter<'r, 'h>(&'r self, haystack: &'h str) -> Matches<'r, 'h> {
        Matches { regex: self, steps: Steps::new(haystack, Location::caller()) }
    }

    /// As [`find_iter`](Self::find_iter), with the groups of each match.
    #[track_caller]
    pub fn captures_iter<'r, 'h>(&'r self, haystack: &'h str) -> CaptureMatches<'r, 'h> {
        CaptureMatches { regex: self, steps: Steps::new(haystack, Location::caller()) }
    }

    /// The text with every match replaced by what `replacement` makes of it.
    ///
    /// # Errors
    ///
    /// That of the scope, as soon as it is over.
    #[track_caller]
    pub fn replace_all<'h, S: AsRef<str>>(
        &self,
        haystack: &'h str,
        replacement: impl FnMut(&Captures<'h>) -> S,
    ) -> Result<Cow<'h, str>, TimeoutError> {
        replace_all(self.captures_iter(haystack), haystack, replacement)
    }

    /// Chunk by chunk. What begins in a chunk ends `most` bytes after it at the latest. The engine is given the whole
    /// text and a part to search, so that anchors and word boundaries see what is around.
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
        location: Place,
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
                Err(Broken::Off(error)) => return Err(error),
                Err(Broken::Helpless) => self.find_whole(haystack, at),
            },
        };
        Ok(found.map(|(start, end)| Match { haystack, start, end }))
    }

    fn captures_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: Place,
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

/// Automata whose states are followed one by one, and made on the way.
struct Stepwise {
    automata: hybrid::Regex,
    /// Used by one search at a time; as many as there were at a time.
    caches: Mutex<Vec<hybrid::Cache>>,
}

/// Why a search did not come to its end.
enum Broken {
    Off(TimeoutError),
    /// The automaton cannot go on, at a character that its word boundaries do not know.
    Helpless,
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
    ) -> Result<Option<(usize, usize)>, Broken> {
        let kept = lock(&self.caches).pop();
        let mut cache = kept.unwrap_or_else(|| self.automata.create_cache());
        let found = loop {
            match self.find_once(&mut cache, haystack, at, look) {
                // An empty match within a character is none.
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
    ) -> Result<Option<(usize, usize)>, Broken> {
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
            look().map_err(Broken::Off)?;
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
            look().map_err(Broken::Off)?;
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

/// A walk through the states of an automaton, which knows of a match one byte after its end.
struct Walk<'a> {
    dfa: &'a DFA,
    cache: &'a mut Cache,
    state: LazyStateID,
    /// Where the last match ended.
    last: Option<usize>,
    /// Whether no further match can come.
    ended: bool,
}

impl<'a> Walk<'a> {
    fn begin(
        dfa: &'a DFA,
        cache: &'a mut Cache,
        start: impl FnOnce(&DFA, &mut Cache) -> Option<LazyStateID>,
    ) -> Result<Self, Broken> {
        let state = start(dfa, cache).ok_or(Broken::Helpless)?;
        Ok(Self { dfa, cache, state, last: None, ended: state.is_dead() })
    }

    /// Takes in a byte, at whose near end `position` is.
    #[cfg_attr(not(debug_assertions), inline(always))]
    fn step(&mut self, byte: u8, position: usize) -> Result<(), Broken> {
        self.state = self.dfa.next_state(self.cache, self.state, byte).map_err(|_| Broken::Helpless)?;
        if self.state.is_tagged() { self.note(position) } else { Ok(()) }
    }

    fn end_of_text(&mut self, position: usize) -> Result<(), Broken> {
        self.state = self.dfa.next_eoi_state(self.cache, self.state).map_err(|_| Broken::Helpless)?;
        self.note(position)
    }

    fn note(&mut self, position: usize) -> Result<(), Broken> {
        if self.state.is_match() {
            self.last = Some(position);
        } else if self.state.is_quit() {
            return Err(Broken::Helpless);
        }
        self.ended = self.state.is_dead();
        Ok(())
    }
}
