//! Asks oned back, over its XML-RPC interface: what has become of a VM, and what the transfer manager must know of it.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use causeway_core::answer::{Failure, Kind};
use causeway_core::names::VmId;
use causeway_tm::datastore::Hosts;
use xmlrpc::{Request, Transport, Value};

/// Longest wait for an answer.
const DEADLINE: Duration = Duration::from_secs(20);

/// The largest answer that is read: a VM with a long history has some hundred KiB.
const ANSWER_LIMIT: usize = 16 << 20;

/// oned's address and our way in.
pub struct Oned {
    endpoint: String,
    session: Option<String>,
    client: reqwest::Client,
}

impl Oned {
    /// As the command line tools find it: `ONE_XMLRPC` and `ONE_AUTH` of the environment, else this machine and the
    /// file below oneadmin's home.
    pub fn from_environment(var: &Path) -> Self {
        let endpoint =
            std::env::var("ONE_XMLRPC").unwrap_or_else(|_| "http://localhost:2633/RPC2".to_owned());
        let file = std::env::var_os("ONE_AUTH").map_or_else(|| var.join(".one/one_auth"), Into::into);
        let session = fs::read_to_string(file).ok().map(|text| text.trim().to_owned());
        Oned::at(&endpoint, session.as_deref())
    }

    /// One at this address, with `USER:PASSWORD`.
    pub fn at(endpoint: &str, session: Option<&str>) -> Self {
        let session = session.map(str::to_owned);
        Oned { endpoint: endpoint.to_owned(), session, client: reqwest::Client::new() }
    }

    /// A VM's document, as XML.
    ///
    /// # Errors
    /// [`Kind::Unreachable`] when oned can't be asked, [`Kind::Refused`] with its words when it refuses.
    pub async fn vm(&self, id: VmId) -> Result<String, Failure> {
        self.info("one.vm.info", id.0).await
    }

    /// A datastore's document, as XML, its secrets not decrypted.
    ///
    /// # Errors
    /// As [`vm`](Oned::vm).
    pub async fn datastore(&self, id: u32) -> Result<String, Failure> {
        self.info("one.datastore.info", id).await
    }

    /// An image's document.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    pub async fn image(&self, id: u32) -> Result<String, Failure> {
        self.info("one.image.info", id).await
    }

    /// A datastore's document with its secrets readable, for the datastore's own driver.
    ///
    /// # Errors
    /// oned's refusal, or that it could not be asked.
    pub async fn datastore_with_secrets(&self, id: u32) -> Result<String, Failure> {
        self.info_with("one.datastore.info", id, true).await
    }

    /// All hosts that oned has, with their states.
    ///
    /// # Errors
    /// As [`vm`](Oned::vm).
    pub async fn hosts(&self) -> Result<Hosts, Failure> {
        let method = "one.hostpool.info";
        let document = self.ask(method, |request, session| request.arg(session)).await;
        document.and_then(|document| Hosts::parse(document.as_bytes())).map_err(|f| f.context(method))
    }

    /// The datastores that are mounted by whoever uses them.
    ///
    /// # Errors
    /// As [`vm`](Oned::vm).
    pub async fn automounted(&self) -> Result<BTreeSet<u32>, Failure> {
        let method = "one.datastorepool.info";
        let document = self.ask(method, |request, session| request.arg(session)).await;
        document
            .and_then(|document| causeway_tm::automounted(document.as_bytes()))
            .map_err(|f| f.context(method))
    }

    async fn info(&self, method: &str, id: u32) -> Result<String, Failure> {
        self.info_with(method, id, false).await
    }

    async fn info_with(&self, method: &str, id: u32, decrypt: bool) -> Result<String, Failure> {
        let number = i32::try_from(id).map_err(|e| Failure::new(Kind::Input, e))?;
        let document =
            self.ask(method, |request, session| request.arg(session).arg(number).arg(decrypt)).await;
        document.map_err(|f| f.context(format!("{method} {id}")))
    }

    async fn ask<'a>(
        &'a self,
        method: &'a str,
        arguments: impl FnOnce(Request<'a>, &'a str) -> Request<'a>,
    ) -> Result<String, Failure> {
        let session = self.session.as_deref();
        let session = session.ok_or_else(|| unreachable("no ONE_AUTH file can be read"))?;
        let request = arguments(Request::new(method), session);
        let mut body = Vec::new();
        request.write_as_xml(&mut body).map_err(|e| Failure::new(Kind::Bug, e))?;
        let answer = tokio::time::timeout(DEADLINE, self.post(body)).await;
        let answer = answer.unwrap_or_else(|_| Err(unreachable("no answer in time")))?;
        let value = request.call(Canned(answer)).map_err(|e| Failure::new(Kind::Refused, e))?;
        document(&value)
    }

    async fn post(&self, body: Vec<u8>) -> Result<Vec<u8>, Failure> {
        let failed = |e: reqwest::Error| Failure::from_chain(Kind::Unreachable, &e);
        let request = self.client.post(&self.endpoint).header("Content-Type", "text/xml").body(body);
        let mut response =
            request.send().await.and_then(reqwest::Response::error_for_status).map_err(failed)?;
        let mut answer = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(failed)? {
            answer.extend_from_slice(&chunk);
            if answer.len() > ANSWER_LIMIT {
                return Err(Failure::new(
                    Kind::Refused,
                    format!("an answer above {} MiB", ANSWER_LIMIT >> 20),
                ));
            }
        }
        Ok(answer)
    }
}

fn unreachable(why: &str) -> Failure {
    Failure::new(Kind::Unreachable, why)
}

/// oned's answers are an array: success, the document or the error's text, a number.
fn document(value: &Value) -> Result<String, Failure> {
    let Value::Array(parts) = value else {
        return Err(Failure::new(Kind::Refused, "an answer that is no array"));
    };
    match (parts.first(), parts.get(1)) {
        (Some(Value::Bool(true)), Some(Value::String(text))) => Ok(text.clone()),
        (Some(Value::Bool(false)), Some(Value::String(text))) => Err(Failure::new(Kind::Refused, text)),
        _ => Err(Failure::new(Kind::Refused, "an answer of another form")),
    }
}

/// Hands the library an answer that was fetched already: it has no parser of its own to call.
struct Canned(Vec<u8>);

impl Transport for Canned {
    type Stream = std::io::Cursor<Vec<u8>>;
    fn transmit(self, _: &Request<'_>) -> Result<Self::Stream, Box<dyn std::error::Error + Send + Sync>> {
        Ok(std::io::Cursor::new(self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_told_from_refusals() {
        let answer = |ok, text: &str| Value::Array(vec![Value::Bool(ok), text.into(), Value::Int(0)]);
        assert_eq!(document(&answer(true, "<VM/>")).unwrap(), "<VM/>");
        assert_eq!(document(&answer(false, "not authorised")).unwrap_err().text, "not authorised");
        assert!(document(&Value::Bool(true)).is_err());
        assert!(document(&Value::Array(Vec::new())).is_err());
    }
}
