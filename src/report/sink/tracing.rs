use std::io;

use ::tracing::{Level, event};

use super::definition::Sink;
use crate::report::contents::{Activity, Report};

/// Writes each report as an event of [`tracing`](::tracing). The level is `WARN`, the target `timebox`.
///
/// The message is the [`headline`](Report::headline). The fields are `kind`, `label`, `location`, `elapsed` and `limit`
/// (in seconds), `thread`, `thread_id`, `blocked_in`, `function`, `file`, `line`, `suppressed`, and `report`, which is
/// the whole text. A field without a value is left out. The event has no span around it, because it is made on the
/// sink's own thread.
///
/// ```
/// use timebox::report::{Report, Sink, Tracing};
///
/// Tracing.write(&Report::example())?;
/// # Ok::<(), std::io::Error>(())
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct Tracing;

impl Sink for Tracing {
    fn write(&self, report: &Report) -> io::Result<()> {
        let thread = report.thread.as_ref();
        let blocked_in = thread.and_then(|thread| match &thread.activity {
            Activity::Blocked(call) => Some(&**call),
            _ => None,
        });
        let place = report.place();
        event!(
            target: "timebox",
            parent: None,
            Level::WARN,
            kind = report.kind.name(),
            label = report.scope.label(),
            location = %report.scope.location(),
            elapsed = report.elapsed.as_secs_f64(),
            limit = report.limit.map(|limit| limit.as_secs_f64()),
            thread = thread.map(|thread| &*thread.name),
            thread_id = thread.map(|thread| thread.id),
            blocked_in,
            function = place.map(|frame| &*frame.function),
            file = place.and_then(|frame| frame.file.as_deref()),
            line = place.and_then(|frame| frame.line),
            suppressed = report.suppressed,
            report = %report,
            "{}",
            report.headline(),
        );
        Ok(())
    }
}
