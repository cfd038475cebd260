use inferno::flamegraph::color::{BasicPalette, Color, Palette, PaletteMap};
use inferno::flamegraph::{self, Options};

use super::contents::ProfileStack;
use super::folded::WAITING;
use super::report::ProfileReport;
use super::text::Summary;
use crate::report::frames::Frames;

/// The colour of frames that stand for a wait.
const BLUE: Color = Color { r: 116, g: 169, b: 207 };

impl ProfileReport {
    /// The profile as a flame graph: an SVG for a browser, with a search, and with frames that can be zoomed.
    ///
    /// The width of a frame is its time. A stack that waits ends in a blue frame, as described at
    /// [`folded`](Self::folded).
    ///
    /// A run of functions of std, of runtimes and of this crate between your functions is drawn as one frame, such as
    /// `(std and tokio)`. The innermost run is an exception. If your code computes in it, all its functions are drawn.
    /// If your code waits in it, only the function that your code called is drawn. [`folded`](Self::folded) has each
    /// function.
    ///
    /// The crate [`inferno`](https://docs.rs/inferno) draws the graph. **Its licence is CDDL-1.0.** If this licence
    /// does not suit you, do without the feature `flamegraph`, and give [`folded`](Self::folded) to a tool outside of
    /// your program.
    ///
    /// ```
    /// use std::time::Duration;
    /// use timebox::report::Profile;
    ///
    /// let (_, report) = Profile::new().run(|| std::thread::sleep(Duration::from_millis(100)));
    /// std::fs::write(std::env::temp_dir().join("profile.svg"), report.flame_graph())?;
    /// # Ok::<(), std::io::Error>(())
    /// ```
    pub fn flame_graph(&self) -> String {
        let mut folded = self.folded_by(names);
        if folded.is_empty() {
            folded.push_str("[no samples] 1\n");
        }
        let mut palette = PaletteMap::default();
        let frames = folded.lines().filter_map(|line| line.rsplit_once(' ')?.0.rsplit(';').next());
        for wait in frames.filter(|frame| frame.starts_with(WAITING)) {
            palette.insert(wait, BLUE);
        }
        let mut options = Options::default();
        options.title = String::from(self.label().unwrap_or("Profile"));
        options.subtitle = Some(Summary(self).to_string());
        options.count_name = String::from("µs");
        options.colors = Palette::Basic(BasicPalette::Hot);
        options.palette_map = Some(&mut palette);
        options.deterministic = true;
        let mut svg = Vec::new();
        match flamegraph::from_lines(&mut options, folded.lines(), &mut svg) {
            Ok(()) => String::from_utf8_lossy(&svg).into_owned(),
            // Only the writer can fail here, and a `Vec` never does.
            Err(error) => format!("<svg xmlns=\"http://www.w3.org/2000/svg\"><!-- {error} --></svg>"),
        }
    }
}

/// The names that are drawn for a stack, innermost first. The innermost functions may not be the program's (`foreign`).
/// If the stack runs, they are all drawn, because they use the processor. If the stack waits, only the one that the
/// program called is drawn. If the stack has no function of the program, all are drawn.
fn names(stack: &ProfileStack) -> Vec<String> {
    let frames = &stack.frames;
    let innermost = frames.iter().take_while(|frame| frame.foreign).count();
    if stack.doing.is_waiting() && (1..frames.len()).contains(&innermost) {
        return Frames(&frames[innermost - 1..]).names();
    }
    let (shown, rest) = frames.split_at(innermost);
    let mut names: Vec<String> = shown.iter().map(|frame| frame.function.clone()).collect();
    names.extend(Frames(rest).names());
    names
}
