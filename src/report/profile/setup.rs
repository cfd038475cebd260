use std::borrow::Cow;

#[derive(Clone, Debug)]
pub(super) struct Setup {
    pub(super) label: Option<Cow<'static, str>>,
    /// In Hertz.
    pub(super) frequency: u32,
    pub(super) max_stacks: usize,
}

impl Setup {
    /// In nanoseconds.
    pub(super) fn period(&self) -> u64 {
        1_000_000_000 / u64::from(self.frequency)
    }
}
