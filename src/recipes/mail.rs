use std::io;

use lettre::message::Mailbox;
use lettre::{Message, SmtpTransport, Transport};
use timebox::report::{Report, Sink};

/// Mails each report.
pub struct Mail {
    /// The transport must have a timeout. Otherwise a silent server holds up all later mails.
    pub transport: SmtpTransport,
    pub from: Mailbox,
    pub to: Mailbox,
}

impl Sink for Mail {
    fn write(&self, report: &Report) -> io::Result<()> {
        let message = Message::builder()
            .from(self.from.clone())
            .to(self.to.clone())
            .subject(report.headline())
            .body(report.to_string())
            .map_err(io::Error::other)?;
        self.transport.send(&message).map(drop).map_err(io::Error::other)
    }
}
