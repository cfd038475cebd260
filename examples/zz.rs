use std::{future::Future, pin::Pin, time::Duration};
type B = Pin<Box<dyn Future<Output = usize>>>;
fn here() -> usize { let x = 0u8; std::ptr::from_ref(&x).addr() }
fn ours(n: u32) -> B { Box::pin(async move { if n == 0 { return here(); } timebox::future::timeout_value(Duration::from_secs(60), ours(n - 1)).await.unwrap() }) }
fn theirs(n: u32) -> B { Box::pin(async move { if n == 0 { return here(); } tokio::time::timeout(Duration::from_secs(60), theirs(n - 1)).await.unwrap() }) }
fn ours_b(n: u32) -> B { Box::pin(async move { if n == 0 { return here(); } timebox::Timebox::new(Duration::from_secs(60)).label("x").run_future_value(ours_b(n - 1)).await.unwrap() }) }
fn main() {
    let rt = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    std::thread::Builder::new().stack_size(64 << 20).spawn(move || rt.block_on(async {
        for (name, f) in [("ours", ours as fn(u32) -> B), ("builder", ours_b), ("tokio", theirs)] {
            let a = f(10).await; let b = f(110).await;
            println!("{name} {}", (a - b) / 100);
        }
    })).unwrap().join().unwrap();
}
