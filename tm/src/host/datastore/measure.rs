//! `stat`: how large an image would be, MiB.

use std::io::Read;

use super::import::named;
use super::upload;
use super::{During, Header, MIB, Origin, StorageError, Tool, Worker};

/// Longest wait for a server's answer, seconds; as the stock script waits.
const PATIENCE: &str = "60";
/// Most bytes of headers that are read.
const HEADERS: u64 = 256 << 10;

/// Prints the size of a file: what a guest would see of a qcow2 image, what an archive says of itself.
pub(super) fn measure(origin: &Origin) -> Result<String, StorageError> {
    let Origin::File { path, dirs, .. } = origin else {
        return Err(StorageError::Upload { path: "address".into(), why: "it is no file".to_owned() });
    };
    let file = named(path, dirs)?;
    let length = file.metadata().during("look at", path.path())?.len();
    let header = Header::read(&file).map_err(|why| StorageError::Upload { path: path.path(), why })?;
    let size = match header {
        Some(header) => header.size,
        None => upload::unpacked_size(&file, length).unwrap_or(length),
    };
    Ok(size.div_ceil(MIB).to_string())
}

/// Asks a server.
pub(super) fn ask(address: &str, worker: &Worker<'_>) -> Result<String, StorageError> {
    let mut tool = Tool::curl(address, "what was asked for".as_ref());
    // As stock's downloader will fetch it: whatever the certificate.
    tool.args(["--head", "--insecure", "--max-time", PATIENCE]);
    let headers = tool.stream(worker, |pipe| {
        let mut text = Vec::new();
        pipe.take(HEADERS).read_to_end(&mut text).map(|_| String::from_utf8_lossy(&text).into_owned())
    })?;
    let headers = headers.during("read", "the server's headers")?;
    let size = size(&headers).ok_or_else(|| StorageError::Upload {
        path: "what was asked for".into(),
        why: "the server does not say how large it is: state SIZE of the image".to_owned(),
    })?;
    Ok(size.div_ceil(MIB).to_string())
}

/// The size that headers tell, bytes; those after the last redirection count, and a marketplace's own before all.
pub(super) fn size(headers: &str) -> Option<u64> {
    let last = |name: &str| {
        let value = |line: &str| {
            let (key, value) = line.split_once(':')?;
            key.trim().eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
        };
        headers.lines().filter_map(value).next_back()
    };
    let told = last("OpenNebula-AppMarket-Size").or_else(|| last("Content-Length"))?;
    told.parse().ok().filter(|size| *size > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_answer_and_the_marketplace_count() {
        let redirected =
            "HTTP/1.1 302 Found\r\nContent-Length: 0\r\n\r\nHTTP/2 200\r\ncontent-length: 1048577\r\n\r\n";
        assert_eq!(size(redirected), Some(1_048_577));
        let market = format!("{redirected}opennebula-appmarket-size: 7\r\n");
        assert_eq!(size(&market), Some(7));
        for text in ["", "HTTP/1.1 200 OK\r\n\r\n", "Content-Length: x\r\n", "Content-Length: 0\r\n"] {
            assert_eq!(size(text), None, "{text:?}");
        }
    }
}
