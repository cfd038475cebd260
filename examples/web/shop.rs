//! What the handlers share.

use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread;

use timebox::regex::Regex;
use tokio::net::TcpListener;
use tokio::sync::Notify;

use crate::AnyError;
use crate::database::Database;

pub(crate) struct Shop {
    pub(crate) database: Database,
    /// What a name may be, by somebody who did not know that `(a+)+` takes exponential time.
    pub(crate) names: Regex,
    /// The export of last night holds this lock.
    pub(crate) stock: Arc<Mutex<u32>>,
    /// A server that accepts connections and says nothing.
    pub(crate) supplier: SocketAddr,
    /// Nobody notifies it.
    pub(crate) recommendations: Notify,
}

impl Shop {
    pub(crate) async fn open() -> Result<Arc<Self>, AnyError> {
        let stock = Arc::new(Mutex::new(7));
        hold_for_ever(Arc::clone(&stock));
        Ok(Arc::new(Self {
            database: Database::create()?,
            names: Regex::new(r"^([a-z]+)+$")?,
            stock,
            supplier: silent_peer().await?,
            recommendations: Notify::new(),
        }))
    }
}

fn hold_for_ever(lock: Arc<Mutex<u32>>) {
    thread::spawn(move || {
        let _held = lock.lock();
        loop {
            thread::park();
        }
    });
}

async fn silent_peer() -> io::Result<SocketAddr> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            // Until the other side hangs up.
            tokio::spawn(async move { tokio::io::copy(&mut stream, &mut tokio::io::sink()).await });
        }
    });
    Ok(address)
}
