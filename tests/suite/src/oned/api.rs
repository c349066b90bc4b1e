//! oned's XML-RPC interface, as far as a driver process asks it back: a stand-in on loopback for tests of what happens
//! after a restart. It is told what VMs and datastores there are, and keeps what it was asked.

use std::collections::HashMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::error::SuiteError;
use crate::xml::{Element, escape};

/// The largest request that is read.
const LIMIT: usize = 1 << 20;

/// In the place of a number, of what there is one of.
const POOL: u32 = u32::MAX;

/// One question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Query {
    /// `one.vm.info`.
    pub method: String,
    /// The session, as `user:password`.
    pub session: String,
    /// The object's number.
    pub id: Option<u32>,
}

#[derive(Default)]
struct Known {
    objects: HashMap<(String, u32), String>,
    queries: Vec<Query>,
    deaf: bool,
}

/// The stand-in. Ends when dropped.
pub struct Api {
    known: Arc<Mutex<Known>>,
    stop: Arc<AtomicBool>,
    port: u16,
    thread: Option<JoinHandle<()>>,
}

impl Api {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// The machine refuses.
    pub fn start() -> Result<Api, SuiteError> {
        let failed = || SuiteError::io("listen for XML-RPC");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).map_err(failed())?;
        let port = listener.local_addr().map_err(failed())?.port();
        let (known, stop) = (Arc::<Mutex<Known>>::default(), Arc::new(AtomicBool::new(false)));
        let (of_thread, ends) = (Arc::clone(&known), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            for connection in listener.incoming() {
                if ends.load(Ordering::SeqCst) {
                    return;
                }
                if let Ok(connection) = connection {
                    // A client that breaks off is its own affair.
                    let _ = serve(connection, &of_thread);
                }
            }
        });
        Ok(Api { known, stop, port, thread: Some(thread) })
    }

    /// What `ONE_XMLRPC` names.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}/RPC2", self.port)
    }

    /// Lets a VM be known as this document.
    pub fn know_vm(&self, id: u32, document: &str) {
        self.lock().objects.insert(("one.vm.info".to_owned(), id), document.to_owned());
    }

    /// Lets a datastore be known as this document.
    pub fn know_datastore(&self, id: u32, document: &str) {
        self.lock().objects.insert(("one.datastore.info".to_owned(), id), document.to_owned());
    }

    /// Lets an image be known as this document.
    pub fn know_image(&self, id: u32, document: &str) {
        self.lock().objects.insert(("one.image.info".to_owned(), id), document.to_owned());
    }

    /// Lets the pool of hosts be known as this document.
    pub fn know_hosts(&self, document: &str) {
        self.lock().objects.insert(("one.hostpool.info".to_owned(), POOL), document.to_owned());
    }

    /// From now on connections are accepted and closed without an answer, or no longer so.
    pub fn be_deaf(&self, deaf: bool) {
        self.lock().deaf = deaf;
    }

    /// What was asked so far.
    pub fn queries(&self) -> Vec<Query> {
        self.lock().queries.clone()
    }

    fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // Wakes the thread.
        let _ = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port));
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

fn serve(connection: TcpStream, known: &Mutex<Known>) -> io::Result<()> {
    connection.set_read_timeout(Some(Duration::from_secs(10)))?;
    let lock = || known.lock().unwrap_or_else(PoisonError::into_inner);
    if lock().deaf {
        return Ok(());
    }
    let mut reader = BufReader::new(connection);
    let body = read_body(&mut reader)?;
    let answer = match parse(&body) {
        Some(query) => {
            let mut known = lock();
            known.queries.push(query.clone());
            let object = known.objects.get(&(query.method.clone(), query.id.unwrap_or(POOL)));
            match object {
                Some(document) => response(true, document, 0),
                // As oned says it, with its code for an object that does not exist.
                None => response(
                    false,
                    &format!("[{}] Error getting object {:?}.", query.method, query.id),
                    0x400,
                ),
            }
        }
        None => response(false, "not a call that this stand-in knows", 0x1000),
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: text/xml\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        answer.len()
    );
    let mut connection = reader.into_inner();
    connection.write_all(head.as_bytes())?;
    connection.write_all(answer.as_bytes())
}

/// The body of a POST with a Content-Length: oned's own server takes nothing else.
fn read_body(reader: &mut impl BufRead) -> io::Result<String> {
    let mut length = None;
    loop {
        let mut line = String::new();
        if reader.by_ref().take(8192).read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        if line.is_empty() {
            break;
        }
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse::<usize>().ok();
        }
    }
    let length = length.filter(|length| *length <= LIMIT).ok_or(io::ErrorKind::InvalidData)?;
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    String::from_utf8(body).map_err(|_| io::ErrorKind::InvalidData.into())
}

fn parse(body: &str) -> Option<Query> {
    let document = body.split_once("?>").map_or(body, |(_, document)| document);
    // Blanks between tags are text to the reader, and no parameters.
    let call = Element::parse(document.trim()).ok().filter(|root| root.name == "methodCall")?;
    let method = call.find("methodName")?.text().trim().to_owned();
    let values: Vec<String> = call
        .find("params")
        .into_iter()
        .flat_map(Element::children)
        .filter_map(|param| param.find("value"))
        .map(|value| value.children().next().map_or_else(|| value.text(), Element::text))
        .collect();
    let mut values = values.into_iter();
    Some(Query { method, session: values.next()?, id: values.next().and_then(|id| id.trim().parse().ok()) })
}

fn response(ok: bool, text: &str, code: u32) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\r\n<methodResponse>\r\n<params>\r\n<param><value><array><data>\r\n\
         <value><boolean>{}</boolean></value>\r\n<value><string>{}</string></value>\r\n\
         <value><i4>{code}</i4></value>\r\n</data></array></value></param>\r\n</params>\r\n</methodResponse>\r\n",
        u8::from(ok),
        escape(text)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(api: &Api, body: &str) -> String {
        let mut connection = TcpStream::connect((Ipv4Addr::LOCALHOST, api.port)).unwrap();
        let length = body.len();
        // One that does not listen may close before our words are out, or reset with them unread: what
        // came back is all that counts.
        let _ = write!(connection, "POST /RPC2 HTTP/1.1\r\ncontent-length: {length}\r\n\r\n{body}");
        let mut answer = String::new();
        let _ = connection.read_to_string(&mut answer);
        answer
    }

    #[test]
    fn what_is_known_is_told_and_the_rest_refused() {
        let api = Api::start().unwrap();
        api.know_vm(7, "<VM><NAME><![CDATA[a]]></NAME></VM>");
        let body = |id: u32| {
            format!(
                "<?xml version=\"1.0\"?><methodCall><methodName>one.vm.info</methodName><params>\
                 <param><value><string>a:b</string></value></param><param><value><i4>{id}</i4></value></param>\
                 </params></methodCall>"
            )
        };
        let good = ask(&api, &body(7));
        assert!(good.contains("<boolean>1</boolean>") && good.contains("&lt;VM&gt;&lt;NAME&gt;"), "{good}");
        assert!(ask(&api, &body(8)).contains("<boolean>0</boolean>"));
        let query = |id| Query { method: "one.vm.info".to_owned(), session: "a:b".to_owned(), id: Some(id) };
        assert_eq!(api.queries(), [query(7), query(8)]);
        api.be_deaf(true);
        assert_eq!(ask(&api, &body(7)), "");
    }
}
