//! A context with a file that is an address, from a real server, by the built driver process.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;

use super::{Stage, TM, ok, tool};

/// Serves `init.sh` to whoever asks for it, and nothing else, until the test ends.
fn serve() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let mut request = Vec::new();
            let mut byte = [0];
            while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1) {
                request.push(byte[0]);
            }
            let found = request.starts_with(b"GET /init.sh ");
            let answer = match found {
                true => "HTTP/1.1 200 OK\r\nContent-Length: 8\r\nConnection: close\r\n\r\necho up\n",
                false => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
            };
            let _ = stream.write_all(answer.as_bytes());
        }
    });
    format!("http://{address}")
}

#[test]
fn a_file_that_is_an_address_is_fetched_before_anything_is_made() {
    let stage = Stage::new();
    stage.our_qcow2();
    stage.vm7("qcow2", 1);
    let server = serve();
    let script = stage.front_end.var().join("vms/7/context.sh");
    fs::create_dir_all(script.parent().unwrap()).unwrap();
    fs::write(&script, "X='1'\n").unwrap();
    let (image, disk) = (stage.image("abc", "qcow2"), stage.datastores("100/7/disk.0"));
    let iso = stage.datastores("100/7/disk.1");
    let lines = |address: &str| {
        format!(
            "CLONE qcow2 vm:{image} node1:{disk} 7 1\nCONTEXT qcow2 {} {address} node1:{iso} 7 100\n",
            script.display()
        )
    };
    let mut oned = stage.driver(TM);
    let (status, why) = stage.transfer(&mut oned, 7, &lines(&format!("{server}/gone")));
    assert_eq!(status, "FAILURE");
    assert!(why.contains("cannot fetch http://127.0.0.1:") && why.contains("404"), "{why}");
    // Not even by the line before it.
    assert!(!Path::new(&stage.datastores("100/7")).exists());
    assert_eq!(stage.transfer(&mut oned, 7, &lines(&format!("{server}/init.sh"))), ok());
    assert_eq!(tool("isoinfo", &["-R", "-x", "/init.sh", "-i", &iso]), "echo up\n");
    assert_eq!(tool("isoinfo", &["-R", "-x", "/context.sh", "-i", &iso]), "X='1'\n");
    oned.is_square().unwrap();
    oned.finalize().unwrap();
}
