use timebox::timeboxed;

#[tokio::main(flavor = "current_thread")]
#[timeboxed("1s")]
async fn main() -> timebox::Result<()> {
    Ok(())
}

#[tokio::test]
#[timeboxed("1s")]
async fn of_a_test() -> timebox::Result<()> {
    Ok(())
}
