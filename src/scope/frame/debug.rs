use std::fmt;

use super::Scope;
use crate::thread::Thread;
use crate::time::Deadline;

impl fmt::Debug for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("Scope");
        if let Some(label) = self.extras().and_then(|extras| extras.options.label.as_deref()) {
            debug.field("label", &label);
        }
        let deadline = Thread::with(|thread| self.effective(thread));
        debug.field("location", &format_args!("{}", self.location));
        debug.field("deadline", &Deadline::from_nanos(deadline)).finish_non_exhaustive()
    }
}
