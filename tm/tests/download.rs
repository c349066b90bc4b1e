//! Files of a context that are addresses, fetched from a real server on this machine.

#![cfg(test)]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use causeway_core::answer::{Failure, Kind};
use causeway_tm::Source;
use causeway_tm::front::{Limits, read_sources};

/// What every user of this machine can read of all that runs on it.
fn command_lines() -> Vec<String> {
    let read = |entry: std::fs::DirEntry| std::fs::read(entry.path().join("cmdline")).ok();
    let lines = std::fs::read_dir("/proc").unwrap().filter_map(|entry| read(entry.ok()?));
    lines.map(|line| String::from_utf8_lossy(&line).into_owned()).collect()
}

/// Answers each request by its path, until the test ends.
fn serve() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            spawn(move || {
                let mut request = Vec::new();
                let mut byte = [0];
                while !request.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|count| count == 1)
                {
                    request.push(byte[0]);
                }
                let request = String::from_utf8_lossy(&request).into_owned();
                let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
                let whole =
                    |body: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{body}", body.len());
                let answer = match path.as_str() {
                    "/init.sh" => whole("echo 'it is \"up\"'\n"),
                    "/moved" => {
                        "HTTP/1.1 302 Found\r\nLocation: /init.sh\r\nContent-Length: 0\r\n\r\n".to_owned()
                    }
                    "/leads-home" => {
                        "HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n"
                            .to_owned()
                    }
                    "/large" => whole(&"x".repeat(100_000)),
                    "/cut" => "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nhalf".to_owned(),
                    "/slow" => {
                        sleep(Duration::from_secs(30));
                        String::new()
                    }
                    "/who-asks" => {
                        let shown = command_lines().iter().filter(|line| line.contains("hush")).count();
                        whole(&format!("{shown} of {}", command_lines().len().min(2)))
                    }
                    path if path.contains("%20") || path.contains('[') => whole(path),
                    _ => "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n".to_owned(),
                };
                // The other end may have had enough.
                let _ = stream.write_all(answer.as_bytes());
            });
        }
    });
    address
}

fn fetch(paths: &[String], limits: Limits, seconds: u64) -> Result<Vec<Vec<u8>>, Failure> {
    let source = |path: &String| match path.strip_prefix('/') {
        Some(_) => Source::File(path.parse().unwrap()),
        None => Source::Address(path.parse().unwrap()),
    };
    let sources: BTreeMap<String, Source> =
        paths.iter().enumerate().map(|(index, path)| (index.to_string(), source(path))).collect();
    let read = read_sources(&sources, limits, Instant::now() + Duration::from_secs(seconds))?;
    Ok(read.into_values().map(|input| input.0.to_vec()).collect())
}

#[test]
fn what_an_address_brings_becomes_a_file_of_the_context() {
    let server = serve();
    let dir = tempfile::tempdir().unwrap();
    let local = dir.path().join("context.sh").display().to_string();
    std::fs::write(&local, "X='1'\n").unwrap();
    let paths = [local, format!("http://{server}/init.sh"), format!("HTTP://me:hush@{server}/moved")];
    let read = fetch(&paths, Limits::default(), 60).unwrap();
    let script = b"echo 'it is \"up\"'\n".to_vec();
    assert_eq!(read, [b"X='1'\n".to_vec(), script.clone(), script]);
    // As it stands, whatever it might mean to a shell or to the tool.
    let path = r#"/a%20b/[1-3]{x,y}$(z)?q='"\n"x"#;
    let odd = format!("http://{server}{path}");
    assert_eq!(fetch(&[odd], Limits::default(), 60).unwrap(), [path.as_bytes()]);
}

#[test]
fn a_password_is_on_no_command_line() {
    let address = format!("http://me:hush@{}/who-asks", serve());
    assert_eq!(fetch(&[address], Limits::default(), 60).unwrap(), [b"0 of 2"]);
}

#[test]
fn what_does_not_come_whole_is_a_failure_that_names_it_and_no_password() {
    let server = serve();
    let small = Limits { file: 50_000, total: 60_000 };
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    for (address, said, kind) in [
        (format!("http://me:hush@{server}/gone?token=hush"), "404", Kind::Refused),
        (format!("http://me:hush@{server}/cut"), "curl", Kind::Refused),
        (format!("http://me:hush@{server}/leads-home"), "curl", Kind::Refused),
        (format!("http://me:hush@{server}/large"), "larger than 50000 bytes", Kind::Input),
        (format!("http://me:hush@{closed}/x"), "curl", Kind::Refused),
    ] {
        let failure = fetch(std::slice::from_ref(&address), small, 60).unwrap_err();
        assert!(
            failure.text.contains(said) && failure.text.contains("http://127.0.0.1:"),
            "{address}: {failure}"
        );
        assert!(!failure.text.contains("hush"), "{failure}");
        assert_eq!(failure.kind, kind, "{failure}");
    }
    let large = format!("http://{server}/large");
    let together = Limits { file: 150_000, total: 150_000 };
    let failure = fetch(&[large.clone(), large], together, 60).unwrap_err();
    assert!(failure.text.contains("the most that a context image takes"), "{failure}");
}

#[test]
fn a_server_that_says_nothing_costs_the_deadline() {
    let begun = Instant::now();
    let failure = fetch(&[format!("http://{}/slow", serve())], Limits::default(), 2).unwrap_err();
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(failure.kind, Kind::Timeout, "{failure}");
    assert!(failure.text.contains("/slow"), "{failure}");
}
