use timebox::timeboxed;

#[timeboxed("1s")]
fn nothing() {}

#[timeboxed("1s")]
async fn nothing_later() {}

#[timeboxed("1s")]
fn a_pair() -> (u32, u32) { (1, 2) }

#[timeboxed("1s")]
fn opaque() -> impl Iterator<Item = u32> { 0..3 }

#[timeboxed("1s")]
fn number() -> u32 { 1 }

#[timeboxed("1s")]
async fn number_later() -> u32 { 1 }

#[timeboxed("1s", fallback = None)]
fn option() -> Option<String> { None }

#[timeboxed("1s")]
fn of_a_future() -> impl Future<Output = u32> { async { 1 } }

struct Client;

impl Client {
    #[timeboxed("1s")]
    fn connect() -> Self { Self }
}

fn main() {}
