//! Regular expressions that end with their scope (feature `regex`).
//!
//! A backtracking engine may need years for a text of sixty characters. [`Regex`] is PCRE2 with just-in-time
//! compilation. It checks the scope at each item of the pattern, so a search ends some microseconds after the
//! deadline, and the expression can be used again at once. [`linear`] has an engine without backtracking, which
//! checks the scope every 16 KiB of text. It has no look-around and no back-references.
//!
//! ```
//! use std::time::Duration;
//! use timebox::regex::Regex;
//! use timebox::timeout;
//!
//! let evil = Regex::new(r"^(a+)+$").unwrap();
//! let text = "a".repeat(60) + "!";
//! let result = timeout(Duration::from_millis(20), || evil.is_match(&text));
//! assert!(result.unwrap_err().is_timeout());
//! assert!(evil.is_match("aaaa").unwrap());
//! ```

mod captures;
pub mod linear;
mod pcre2;

use std::borrow::Cow;
use std::fmt;
use std::ops::Range;
use std::panic::{Location, RefUnwindSafe, UnwindSafe};
use std::sync::Arc;

use crate::error::{RaiseContext, ScopeInfo, TimeoutError};
use crate::scope::Scope;
use crate::scope::checkpoint::is_over;
use crate::scope::innermost;
use crate::sync::{Mutex, lock};
use crate::thread::Thread;
use crate::time::clock;
use pcre2::{Code, Look, Scratch, Stopped};

pub use captures::{Captures, Match};

/// A regular expression of PCRE2, with Unicode, whose searches end with the scope.
///
/// In a scope a search takes two to five times as long as with plain PCRE2. Outside of all scopes a search checks
/// nothing, but still takes up to three times as long. `benches/README.md` has figures.
///
/// # Memory
///
/// A search that backtracks deeply needs memory in proportion to the text. If there is not enough memory, or the
/// pattern recurses for ever, the search fails: the error [is cancelled](TimeoutError::is_cancelled), and its
/// [reason](TimeoutError::reason) is PCRE2's message.
///
/// Compilation cannot be interrupted: do not compile a stranger's pattern.
pub struct Regex {
    pattern: Box<str>,
    code: Code,
    names: Arc<[(String, usize)]>,
    /// Spare memory for searches. A search takes a `Scratch` from here, or makes one if there is none, and puts it back
    /// at its end.
    scratch: Mutex<Vec<Scratch>>,
}

impl UnwindSafe for Regex {}
impl RefUnwindSafe for Regex {}

/// A pattern that PCRE2 rejects.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message} at byte {offset} of the pattern")]
pub struct PatternError {
    message: String,
    offset: usize,
}

impl PatternError {
    /// The byte of the pattern where the mistake is.
    pub fn offset(&self) -> usize {
        self.offset
    }
}

/// PCRE2 has given up the search. This error is the source of the `TimeoutError` that the search returns.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("PCRE2: {0}")]
struct GivenUp(String);

impl Regex {
    /// Compiles a pattern. Write options into the pattern: `(?i)`, `(?m)`, `(?s)`, `(?x)`.
    ///
    /// # Errors
    ///
    /// If the pattern is no regular expression, or contains `\C`, which would match a part of a character.
    pub fn new(pattern: &str) -> Result<Self, PatternError> {
        let code = Code::compile(pattern)
            .map_err(|(code, offset)| PatternError { message: pcre2::message(code), offset })?;
        let names = code.names().into();
        Ok(Self { pattern: pattern.into(), code, names, scratch: Mutex::new(Vec::new()) })
    }

    /// The pattern.
    pub fn as_str(&self) -> &str {
        &self.pattern
    }

    /// Whether there is a match.
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over. Also an error if PCRE2 gives the search up: see
    /// [memory](Regex#memory).
    #[track_caller]
    pub fn is_match(&self, haystack: &str) -> Result<bool, TimeoutError> {
        self.search(haystack, 0, Location::caller(), |_| ()).map(|found| found.is_some())
    }

    /// The leftmost match.
    ///
    /// ```
    /// use timebox::regex::Regex;
    ///
    /// let word = Regex::new(r"\p{L}+").unwrap();
    /// let found = word.find("42 Äpfel").unwrap().unwrap();
    /// assert_eq!((found.as_str(), found.range()), ("Äpfel", 3..9));
    /// ```
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over. Also an error if PCRE2 gives the search up: see
    /// [memory](Regex#memory).
    #[track_caller]
    pub fn find<'h>(&self, haystack: &'h str) -> Result<Option<Match<'h>>, TimeoutError> {
        self.find_at(haystack, 0, Location::caller())
    }

    /// The leftmost match with its groups.
    ///
    /// ```
    /// use timebox::regex::Regex;
    ///
    /// let date = Regex::new(r"(?<year>\d{4})-(\d\d)").unwrap();
    /// let groups = date.captures("on 2026-11").unwrap().unwrap();
    /// assert_eq!(groups.name("year").unwrap().as_str(), "2026");
    /// assert_eq!(groups.get(2).unwrap().as_str(), "11");
    /// ```
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over. Also an error if PCRE2 gives the search up: see
    /// [memory](Regex#memory).
    #[track_caller]
    pub fn captures<'h>(&self, haystack: &'h str) -> Result<Option<Captures<'h>>, TimeoutError> {
        self.captures_at(haystack, 0, Location::caller())
    }

    /// All matches that do not overlap, from left to right. Each step of the iterator checks the scope. If a search
    /// fails, its error is the last item.
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
    /// ```
    /// use timebox::regex::Regex;
    ///
    /// let digits = Regex::new(r"\d+").unwrap();
    /// let doubled = digits.replace_all("1 and 20", |found| (2 * found[0].parse::<u32>().unwrap()).to_string());
    /// assert_eq!(doubled.unwrap(), "2 and 40");
    /// ```
    ///
    /// # Errors
    ///
    /// The scope's error, as soon as the scope is over. Also an error if PCRE2 gives the search up: see
    /// [memory](Regex#memory).
    #[track_caller]
    pub fn replace_all<'h, S: AsRef<str>>(
        &self,
        haystack: &'h str,
        replacement: impl FnMut(&Captures<'h>) -> S,
    ) -> Result<Cow<'h, str>, TimeoutError> {
        replace_all(self.captures_iter(haystack), haystack, replacement)
    }

    /// Searches from `at` on. `found` makes the result from the offsets of the match.
    fn search<T>(
        &self,
        haystack: &str,
        at: usize,
        location: &'static Location<'static>,
        found: impl FnOnce(&[usize]) -> T,
    ) -> Result<Option<T>, TimeoutError> {
        Thread::with(|thread| {
            innermost(thread, |scope| {
                scope.map_or(Ok(()), |scope| scope.checkpoint_at(location))?;
                let kept = lock(&self.scratch).pop();
                let Some(mut scratch) = kept.or_else(|| self.code.scratch()) else {
                    return Err(given_up(scope, location, "no memory for a search".into()));
                };
                // PCRE2 calls `is_over_here` during the search. That function checks the innermost scope of this
                // thread, which is `scope`. So the function needs no argument.
                let look: Option<Look> = scope.map(|_| is_over_here as Look);
                let result = loop {
                    match self.code.search(&mut scratch, haystack, at, look) {
                        Ok(is_match) => break Ok(is_match.then(|| found(scratch.offsets()))),
                        // `is_over_here` has found the scope over, so this check gives the error. If it gives none, the
                        // search begins again.
                        Err(Stopped::Ended) => {
                            if let Some(Err(error)) = scope.map(|scope| scope.check_by_clock(location)) {
                                break Err(error);
                            }
                        }
                        Err(Stopped::Failed(code)) => {
                            break Err(given_up(scope, location, pcre2::message(code)));
                        }
                    }
                };
                lock(&self.scratch).push(scratch);
                result
            })
        })
    }
}

trait Search: Send + Sync + UnwindSafe + RefUnwindSafe {
    /// The leftmost match at or after `at`.
    fn find_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: &'static Location<'static>,
    ) -> Result<Option<Match<'h>>, TimeoutError>;

    fn captures_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: &'static Location<'static>,
    ) -> Result<Option<Captures<'h>>, TimeoutError>;
}

impl Search for Regex {
    fn find_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: &'static Location<'static>,
    ) -> Result<Option<Match<'h>>, TimeoutError> {
        self.search(haystack, at, location, |offsets| Match::of(haystack, offsets))
    }

    fn captures_at<'h>(
        &self,
        haystack: &'h str,
        at: usize,
        location: &'static Location<'static>,
    ) -> Result<Option<Captures<'h>>, TimeoutError> {
        self.search(haystack, at, location, |offsets| Captures {
            haystack,
            offsets: offsets.into(),
            names: Arc::clone(&self.names),
        })
    }
}

fn replace_all<'h, S: AsRef<str>>(
    matches: CaptureMatches<'_, 'h>,
    haystack: &'h str,
    mut replacement: impl FnMut(&Captures<'h>) -> S,
) -> Result<Cow<'h, str>, TimeoutError> {
    let mut new = String::new();
    let mut done = None;
    for groups in matches {
        let groups = groups?;
        let range = groups.range();
        new.push_str(&haystack[done.unwrap_or(0)..range.start]);
        new.push_str(replacement(&groups).as_ref());
        done = Some(range.end);
    }
    Ok(match done {
        None => Cow::Borrowed(haystack),
        Some(done) => {
            new.push_str(&haystack[done..]);
            Cow::Owned(new)
        }
    })
}

/// PCRE2 calls this function at each item of the pattern. `true` ends the search.
fn is_over_here() -> bool {
    let over = Thread::with(is_over);
    #[cfg(test)]
    tests::ENDED.set(tests::ENDED.get() + u32::from(over));
    over
}

#[cold]
fn given_up(scope: Option<&Scope>, location: &'static Location<'static>, why: String) -> TimeoutError {
    let info = || ScopeInfo::at(location);
    let info = scope.map_or_else(info, Scope::info);
    TimeoutError::given_up(info, RaiseContext::at(location, clock::now()), Box::new(GivenUp(why)))
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

#[derive(Clone, Debug)]
struct Steps<'h> {
    haystack: &'h str,
    location: &'static Location<'static>,
    /// Where the next search begins. Once the iteration has ended, this is beyond the end of the text.
    at: usize,
    /// The end of the last match. An empty match at this place is skipped.
    last: Option<usize>,
}

impl<'h> Steps<'h> {
    fn new(haystack: &'h str, location: &'static Location<'static>) -> Self {
        Self { haystack, location, at: 0, last: None }
    }

    fn next<T>(
        &mut self,
        find: impl Fn(&'h str, usize, &'static Location<'static>) -> Result<Option<T>, TimeoutError>,
        range: impl Fn(&T) -> Range<usize>,
    ) -> Option<Result<T, TimeoutError>> {
        while self.at <= self.haystack.len() {
            let found = match find(self.haystack, self.at, self.location) {
                Ok(Some(found)) => found,
                end => {
                    self.at = usize::MAX;
                    return end.transpose();
                }
            };
            let Range { start, end } = range(&found);
            let is_stale = start == end && self.last == Some(end);
            // If the match ends where the search began, a search from there would find the same match again. So the
            // next search begins one character later.
            let next_char = self.haystack[end..].chars().next().map_or(1, char::len_utf8);
            self.at = if end > self.at { end } else { end + next_char };
            if !is_stale {
                self.last = Some(end);
                return Some(Ok(found));
            }
        }
        None
    }
}

/// The iterator of [`Regex::find_iter`].
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are consumed"]
pub struct Matches<'r, 'h> {
    regex: &'r dyn Search,
    steps: Steps<'h>,
}

impl<'h> Iterator for Matches<'_, 'h> {
    type Item = Result<Match<'h>, TimeoutError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.steps.next(|haystack, at, location| self.regex.find_at(haystack, at, location), Match::range)
    }
}

/// The iterator of [`Regex::captures_iter`].
#[derive(Clone)]
#[must_use = "iterators do nothing unless they are consumed"]
pub struct CaptureMatches<'r, 'h> {
    regex: &'r dyn Search,
    steps: Steps<'h>,
}

impl<'h> Iterator for CaptureMatches<'_, 'h> {
    type Item = Result<Captures<'h>, TimeoutError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.steps
            .next(|haystack, at, location| self.regex.captures_at(haystack, at, location), Captures::range)
    }
}

impl fmt::Debug for Matches<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matches").field("steps", &self.steps).finish_non_exhaustive()
    }
}

impl fmt::Debug for CaptureMatches<'_, '_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CaptureMatches").field("steps", &self.steps).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    // How often `is_over_here` has returned `true`. In one search this happens once at most, because it ends the
    // search.
    thread_local!(pub(super) static ENDED: Cell<u32> = const { Cell::new(0) });

    #[test]
    #[cfg_attr(miri, ignore = "calls C")]
    fn the_first_callout_after_the_expiry_ends_the_search() {
        let (regex, text) = (super::Regex::new("^(a+)+$").unwrap(), "a".repeat(60) + "!");
        let (mut late, mut ended) = (Vec::new(), 0);
        for _ in 0..50 {
            ENDED.set(0);
            let limit = std::time::Duration::from_millis(5);
            let error = crate::timeout(limit, || regex.is_match(&text)).unwrap_err();
            // The count is 0 if a busy machine begins the search only after the limit.
            assert!(ENDED.get() <= 1, "it was asked again");
            ended += ENDED.get();
            late.push(error.overshoot());
        }
        assert!(ended > 0);
        late.sort();
        println!("late by {:?}, at most {:?}", late[25], late[49]);
    }
}
