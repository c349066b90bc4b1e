//! oned's other ear: answers `one.vm.info` and `one.datastore.info` over XML-RPC, as far as a driver process asks.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::SuiteError;

/// A method and the object's number: `("one.vm.info", 7)`.
type Question = (String, u32);

/// The number of a question that names no object.
const NOBODY: u32 = u32::MAX;

#[derive(Default)]
struct Table {
    documents: BTreeMap<Question, String>,
    asked: Vec<Question>,
}

/// A listener on loopback. Its thread ends with the test's process.
pub struct Ear {
    address: SocketAddr,
    table: Arc<Mutex<Table>>,
}

impl Ear {
    /// One that knows nothing: every object is refused as oned refuses it.
    ///
    /// # Errors
    /// There is no port for it.
    pub fn open() -> Result<Ear, SuiteError> {
        let listener = TcpListener::bind("127.0.0.1:0").map_err(SuiteError::io("listen on loopback"))?;
        let address = listener.local_addr().map_err(SuiteError::io("listen on loopback"))?;
        let table = Arc::<Mutex<Table>>::default();
        let of_thread = Arc::clone(&table);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let table = Arc::clone(&of_thread);
                std::thread::spawn(move || answer(stream, &table));
            }
        });
        Ok(Ear { address, table })
    }

    /// What `ONE_XMLRPC` is to say.
    pub fn endpoint(&self) -> String {
        format!("http://{}/RPC2", self.address)
    }

    /// From now on this is the object's document.
    pub fn tell(&self, method: &str, id: u32, document: &str) {
        locked(&self.table).documents.insert((method.to_owned(), id), document.to_owned());
    }

    /// What it answers a question that names no object, such as `one.datastorepool.info`.
    pub fn tell_all(&self, method: &str, document: &str) {
        self.tell(method, NOBODY, document);
    }

    /// What it was asked, in order.
    pub fn asked(&self) -> Vec<Question> {
        locked(&self.table).asked.clone()
    }
}

fn locked(table: &Mutex<Table>) -> MutexGuard<'_, Table> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Answers the requests of one connection.
fn answer(mut stream: TcpStream, table: &Mutex<Table>) {
    while let Some(body) = request(&mut stream) {
        let method = between(&body, "<methodName>", "</methodName>").unwrap_or_default().to_owned();
        let tag = if body.contains("<i4>") { ("<i4>", "</i4>") } else { ("<int>", "</int>") };
        let id = between(&body, tag.0, tag.1).and_then(|text| text.parse().ok()).unwrap_or(NOBODY);
        let question = (method, id);
        let known = {
            let mut table = locked(table);
            table.asked.push(question.clone());
            table.documents.get(&question).cloned()
        };
        let (ok, text) = match known {
            Some(document) => (1, document),
            None => (0, format!("[{}] Error getting object [{id}].", question.0)),
        };
        let text = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;");
        let body = format!(
            "<?xml version=\"1.0\"?><methodResponse><params><param><value><array><data><value><boolean>{ok}</boolean>\
             </value><value><string>{text}</string></value><value><i4>0</i4></value></data></array></value></param>\
             </params></methodResponse>"
        );
        let head =
            format!("HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\n\r\n", body.len());
        if stream.write_all(format!("{head}{body}").as_bytes()).is_err() {
            return;
        }
    }
}

/// The body of the next request.
fn request(stream: &mut TcpStream) -> Option<String> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).ok()? == 0 {
            return None;
        }
        head.push(byte[0]);
    }
    let head = String::from_utf8_lossy(&head).to_ascii_lowercase();
    let length = between(&head, "content-length:", "\r\n")?.trim().parse().ok()?;
    let mut body = vec![0; length];
    stream.read_exact(&mut body).ok()?;
    String::from_utf8(body).ok()
}

fn between<'a>(text: &'a str, before: &str, after: &str) -> Option<&'a str> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0)
}
