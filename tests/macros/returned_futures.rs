//! Functions that are not async and return a future, as `async-trait` makes them.

use std::future::{Future, pending};
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;
use pollster::block_on;
use timebox::{future, timeboxed};

use crate::MyError;

struct Client {
    name: String,
    limit: Duration,
}

fn client() -> Client {
    Client { name: "c".into(), limit: Duration::from_millis(1) }
}

#[async_trait]
trait Fetch: Sync {
    async fn fetch(&mut self, key: &str) -> Result<String, MyError>;
    async fn hangs(&self, key: String) -> Result<String, MyError>;

    #[timeboxed("1ms", label = "by default")]
    async fn by_default(&self) -> Result<(), MyError> {
        pending().await
    }
}

#[async_trait]
impl Fetch for Client {
    #[timeboxed("1m")]
    async fn fetch(&mut self, key: &str) -> Result<String, MyError> {
        future::sleep(Duration::ZERO).await?;
        self.name.push_str(key);
        if key.is_empty() {
            return Ok("none".into());
        }
        Ok(self.name.clone())
    }

    #[timeboxed(limit = self.limit, fallback = |_| Ok(self.name.clone()))]
    async fn hangs(&self, key: String) -> Result<String, MyError> {
        let _key = key;
        pending().await
    }
}

#[test]
fn async_trait_may_stand_above() {
    let mut client = client();
    assert_eq!(block_on(client.fetch("1")).unwrap(), "c1");
    assert_eq!(block_on(client.fetch("")).unwrap(), "none");
    assert_eq!(block_on(client.hangs("1".into())).unwrap(), "c1");
    let Err(MyError::Timeout(error)) = block_on(client.by_default()) else { panic!("no limit") };
    assert_eq!(error.label(), Some("by default"));
}

trait Returns {
    fn opaque(&self, key: &str) -> impl Future<Output = Result<usize, MyError>> + Send;
    fn boxed(&self, key: String) -> BoxFuture<'_, Result<String, MyError>>;
    fn pinned<'a>(&'a self) -> Pin<Box<dyn Future<Output = timebox::Result<&'a str>> + Send + 'a>>;
    fn boxed_after_a_statement(&self, key: String) -> BoxFuture<'_, Result<String, MyError>>;
    fn boxed_with_a_comma(&self, key: String) -> BoxFuture<'_, Result<String, MyError>>;
}

impl Returns for Client {
    #[timeboxed(limit = self.limit)]
    fn opaque(&self, key: &str) -> impl Future<Output = Result<usize, MyError>> + Send {
        let size = key.len();
        async move {
            if size == 0 {
                pending::<()>().await;
            }
            Ok(size + self.name.len())
        }
    }

    #[timeboxed("1m")]
    fn boxed(&self, key: String) -> BoxFuture<'_, Result<String, MyError>> {
        if key.is_empty() {
            return Box::pin(async { Ok("none".into()) });
        }
        Box::pin(async move { Ok(format!("{}{key}", self.name)) })
    }

    #[timeboxed("1ms", grace = "1h")]
    fn pinned<'a>(&'a self) -> Pin<Box<dyn Future<Output = timebox::Result<&'a str>> + Send + 'a>> {
        Box::pin(async {
            let _over = future::sleep(Duration::from_secs(3600)).await;
            Ok(&*self.name)
        })
    }

    #[timeboxed("1m")]
    fn boxed_after_a_statement(&self, key: String) -> BoxFuture<'_, Result<String, MyError>> {
        let this = self;
        Box::pin(async move { Ok(format!("{}{key}", this.name)) })
    }

    #[timeboxed(limit = self.limit, fallback = |_| Ok("late".into()))]
    #[rustfmt::skip]
    fn boxed_with_a_comma(&self, key: String) -> BoxFuture<'_, Result<String, MyError>> {
        Box::pin(
            async move { pending::<()>().await; Ok(key) },
        )
    }
}

#[test]
fn the_returned_future_has_the_limit() {
    let client = client();
    assert!(matches!(block_on(client.opaque("")), Err(MyError::Timeout(_))));
    assert_eq!(block_on(client.boxed(String::new())).unwrap(), "none");
    assert_eq!(block_on(client.boxed("1".into())).unwrap(), "c1");
    assert_eq!(block_on(client.boxed_after_a_statement("1".into())).unwrap(), "c1");
    assert_eq!(block_on(client.boxed_with_a_comma("1".into())).unwrap(), "late");
    match block_on(client.pinned()) {
        Ok(name) => assert_eq!(name, "c"),
        Err(error) => assert!(!error.started()),
    }
}
