use std::ffi::OsStr;
use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process;
use std::time::{Duration, SystemTime};

use super::definition::Sink;
use crate::report::calendar::Utc;
use crate::report::contents::Report;
use crate::sync::{AtomicU64, Ordering};

/// Writes each report to a file of its own in a directory.
///
/// The name of a file tells when it was written, by which process, and about what:
/// `timebox-20261128T152049.123456Z-4711-000001-slow-GET_repos_42.txt`. A file appears complete or not at all. If a
/// file cannot be written, for example because the disk is full, the report is lost, and
/// [`dropped`](crate::report::dropped) counts it.
///
/// The directory holds at most [`keep`](Self::keep) reports, with at most [`keep_bytes`](Self::keep_bytes) bytes
/// together. To make room, the oldest reports are removed, also those of other processes that write to the directory.
/// Other files are never touched.
///
/// ```
/// use timebox::report::{Directory, Report, Sink};
///
/// let path = std::env::temp_dir().join(format!("timebox-example-{}", std::process::id()));
/// let directory = Directory::new(&path).keep(100);
/// directory.check()?; // as `install` does: creates the directory and tries it
/// directory.write(&Report::example())?;
///
/// let file = std::fs::read_dir(&path)?.next().unwrap()?;
/// assert!(file.file_name().to_str().unwrap().ends_with("-slow-GET_repos_42.txt"));
/// assert!(std::fs::read_to_string(file.path())?.starts_with("slow: `GET /repos/42` open for 5.003s"));
/// # std::fs::remove_dir_all(&path)?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Debug)]
pub struct Directory {
    path: PathBuf,
    format: Format,
    files: usize,
    bytes: u64,
}

#[derive(Clone, Copy, Debug)]
enum Format {
    Text,
    Json,
}

impl Format {
    fn extension(self) -> &'static str {
        match self {
            Self::Text => "txt",
            Self::Json => "json",
        }
    }
}

/// How old an unfinished file may be before it counts as left behind by a process that was killed.
const UNFINISHED: Duration = Duration::from_secs(3600);

impl Directory {
    /// A directory, which is created if it is not there. A relative path is resolved now, from the current directory of
    /// the process.
    ///
    /// The files are texts, at most 1000 of them, of 64 MiB together.
    pub fn new(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref();
        let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
        Self { path, format: Format::Text, files: 1000, bytes: 64 << 20 }
    }

    /// Writes JSON instead of text: one object on one line, in the form that [`Report`] describes.
    ///
    /// ```
    /// # use timebox::report::{Directory, Report, Sink};
    /// # let path = std::env::temp_dir().join(format!("timebox-json-{}", std::process::id()));
    /// Directory::new(&path).json().write(&Report::example())?;
    /// let file = std::fs::read_dir(&path)?.next().unwrap()?;
    /// let report: serde_json::Value = serde_json::from_slice(&std::fs::read(file.path())?)?;
    /// assert_eq!(report["scope"]["label"], "GET /repos/42");
    /// # std::fs::remove_dir_all(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn json(mut self) -> Self {
        self.format = Format::Json;
        self
    }

    /// Sets how many files there may be. 0 counts as 1.
    ///
    /// ```
    /// # use timebox::report::{Directory, Report, Sink};
    /// # let path = std::env::temp_dir().join(format!("timebox-keep-{}", std::process::id()));
    /// let directory = Directory::new(&path).keep(2);
    /// for _ in 0..5 {
    ///     directory.write(&Report::example())?;
    /// }
    /// assert_eq!(std::fs::read_dir(&path)?.count(), 2);
    /// # std::fs::remove_dir_all(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn keep(mut self, files: usize) -> Self {
        self.files = files.max(1);
        self
    }

    /// Sets how many bytes the files may have together. A report that is larger than this is lost.
    ///
    /// ```
    /// # use timebox::report::{Directory, Report, Sink};
    /// # let path = std::env::temp_dir().join(format!("timebox-bytes-{}", std::process::id()));
    /// let directory = Directory::new(&path).keep_bytes(4000);
    /// for _ in 0..20 {
    ///     directory.write(&Report::example())?;
    /// }
    /// let sizes = std::fs::read_dir(&path)?.map(|file| file?.metadata()).map(|data| Ok(data?.len()));
    /// assert!(sizes.sum::<std::io::Result<u64>>()? <= 4000);
    /// # std::fs::remove_dir_all(&path)?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    #[must_use]
    pub fn keep_bytes(mut self, bytes: u64) -> Self {
        self.bytes = bytes;
        self
    }

    fn render(&self, report: &Report) -> io::Result<Vec<u8>> {
        match self.format {
            Format::Text => Ok(report.to_string().into_bytes()),
            Format::Json => Ok(format!("{}\n", serde_json::to_string(report)?).into_bytes()),
        }
    }

    /// Writes a file under a hidden name, then renames it. So no reader sees an unfinished report.
    fn write_file(&self, name: &str, text: &[u8]) -> io::Result<()> {
        let unfinished = self.path.join(format!(".{name}.unfinished"));
        let written =
            OpenOptions::new().write(true).create_new(true).open(&unfinished).and_then(|mut file| {
                file.write_all(text)?;
                drop(file);
                fs::rename(&unfinished, self.path.join(name))
            });
        if written.is_err() {
            // This fails if the file was not created. That does no harm.
            let _ = fs::remove_file(&unfinished);
        }
        written
    }

    /// Removes the oldest reports until there is room for one more of this size.
    fn make_room(&self, size: u64) -> io::Result<()> {
        if size > self.bytes {
            return Err(io::Error::new(
                io::ErrorKind::FileTooLarge,
                "the report is larger than `keep_bytes` allows",
            ));
        }
        let mut reports: Vec<(String, u64)> = Vec::new();
        for entry in fs::read_dir(&self.path)? {
            // Another process may have removed the file.
            let Ok((entry, data)) = entry.and_then(|entry| entry.metadata().map(|data| (entry, data))) else {
                continue;
            };
            if let Ok(name) = entry.file_name().into_string()
                && data.is_file()
                && is_name(&name)
            {
                reports.push((name, data.len()));
            }
        }
        // Names begin with the time, so the oldest files come first.
        reports.sort_unstable();
        let mut bytes: u64 = reports.iter().map(|(_, size)| size).sum();
        let mut files = reports.len();
        for (name, freed) in reports {
            if files < self.files && bytes.saturating_add(size) <= self.bytes {
                break;
            }
            match fs::remove_file(self.path.join(name)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            files -= 1;
            bytes -= freed;
        }
        Ok(())
    }

    /// Removes unfinished files that a killed process left behind.
    fn clean(&self) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)?.flatten() {
            let name = entry.file_name();
            let name = name.to_str().and_then(|name| name.strip_prefix('.')?.strip_suffix(".unfinished"));
            let age = || entry.metadata().and_then(|data| data.modified()).map(|time| time.elapsed());
            if name.is_some_and(is_name) && matches!(age(), Ok(Ok(age)) if age > UNFINISHED) {
                let _ = fs::remove_file(entry.path());
            }
        }
        Ok(())
    }

    fn try_to_write(&self, report: &Report) -> io::Result<()> {
        let text = self.render(report)?;
        self.make_room(text.len() as u64)?;
        let label = report.scope.label().unwrap_or("scope");
        self.write_file(&name(report.kind.name(), label, self.format.extension()), &text)
    }

    fn explained(&self, error: &io::Error) -> io::Error {
        io::Error::new(error.kind(), format!("directory {}: {error}", self.path.display()))
    }
}

impl Sink for Directory {
    fn write(&self, report: &Report) -> io::Result<()> {
        let result = match self.try_to_write(report) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.path).and_then(|()| self.try_to_write(report))
            }
            result => result,
        };
        result.map_err(|error| self.explained(&error))
    }

    fn check(&self) -> io::Result<()> {
        let check = || {
            fs::create_dir_all(&self.path)?;
            self.clean()?;
            let name = name("check", "", "txt");
            self.write_file(&name, b"timebox tries whether it can write here\n")?;
            fs::remove_file(self.path.join(name))
        };
        check().map_err(|error| self.explained(&error))
    }
}

/// A name for a file, which no other file has.
fn name(kind: &str, label: &str, extension: &str) -> String {
    static SEQUENCE: AtomicU64 = AtomicU64::new(1);
    // Relaxed: the numbers need only differ.
    let number = SEQUENCE.fetch_add(1, Ordering::Relaxed);
    let now = Utc::from(SystemTime::now()).compact();
    format!("timebox-{now}-{}-{number:06}-{kind}-{}.{extension}", process::id(), safe(label))
}

/// The label for a file name: at most 40 characters that every file system takes, and that are no trouble in a shell.
/// Each run of other characters becomes one `_`.
fn safe(label: &str) -> String {
    let mut safe = String::new();
    for char in label.chars() {
        let char = if char.is_ascii_alphanumeric() || char == '-' || char == '.' { char } else { '_' };
        if safe.len() < 40 && !(char == '_' && safe.ends_with('_')) {
            safe.push(char);
        }
    }
    safe
}

/// Whether a file with this name is a report of this crate.
fn is_name(name: &str) -> bool {
    let is_number = |part: Option<&str>| {
        part.is_some_and(|part| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit()))
    };
    let is_time = |part: Option<&str>| {
        let form = |byte: u8| if byte.is_ascii_digit() { b'0' } else { byte };
        part.is_some_and(|part| part.bytes().map(form).eq(*b"00000000T000000.000000Z"))
    };
    let extension = Path::new(name).extension().and_then(OsStr::to_str);
    let mut parts = name.split('-');
    matches!(extension, Some("txt" | "json"))
        && parts.next() == Some("timebox")
        && is_time(parts.next())
        && is_number(parts.next())
        && is_number(parts.next())
        && parts.next().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_and_are_known_again() {
        for (label, expected) in [
            ("GET /repos/42", "GET_repos_42"),
            ("../../etc/passwd", ".._.._etc_passwd"),
            ("", ""),
            ("a\n\u{1b}[0m*$(rm)", "a_0m_rm_"),
            ("łóżko", "_ko"),
            (&"x".repeat(500), &"x".repeat(40)),
        ] {
            assert_eq!(safe(label), expected);
            let name = name("slow", label, "txt");
            assert!(is_name(&name) && name.len() < 128, "{name}");
        }
    }

    #[test]
    fn other_files_are_not_ours() {
        let ours = "timebox-20261128T152049.123456Z-4711-000001-slow-a.txt";
        assert!(is_name(ours));
        for other in [
            "timebox.txt",
            "timebox-notes-1-2-3.txt",
            "timebox-20261128T152049.123456Z-4711-000001-slow-a.md",
            "timebox-20261128T152049.123456Z-47x-000001-slow-a.txt",
            "timebox-20261128T152049.123456Z--000001-slow-a.txt",
            "timebox-20261128T152049.123456Z-4711-000001.txt",
            "atimebox-20261128T152049.123456Z-4711-000001-slow-a.txt",
            "",
        ] {
            assert!(!is_name(other), "{other}");
        }
    }
}
