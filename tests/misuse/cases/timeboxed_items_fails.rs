use timebox::timeboxed;

#[timeboxed("1s")]
const fn while_compiling() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s")]
extern "C" fn for_c() -> timebox::Result<()> { Ok(()) }

#[timeboxed("1s")]
struct Client;

trait Load {
    #[timeboxed("1s")]
    fn load(&self) -> timebox::Result<()>;
}

#[timeboxed("1s")]
impl Load for Client {
    fn load(&self) -> timebox::Result<()> { Ok(()) }
}

#[timeboxed("1s")]
mod inner {}

fn main() {}
