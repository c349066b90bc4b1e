//! The sending side.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Instant;

use super::sink::enough;
use super::throughput::median;
use super::wire::{self, PINGS};
use super::{Limits, PathError, Throughput, Token};

/// Sends a stream to a sink and returns what the sink counted, with the round trip as seen from here. Returns within
/// the limits' `stream` and twice their `wait`.
///
/// # Errors
/// [`PathError::Stranger`] if nobody there knows the token, [`PathError::Io`] if the sink cannot be reached or the
/// connection breaks, [`PathError::TooLittle`] if next to nothing got through.
pub fn send(sink: SocketAddr, token: &Token, limits: Limits) -> Result<Throughput, PathError> {
    let failed = |what: &str| PathError::io(format!("{what} {sink}"));
    let mut stream = TcpStream::connect_timeout(&sink, limits.wait).map_err(failed("connect to"))?;
    let prepare = |stream: &TcpStream| {
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(limits.wait))?;
        stream.set_write_timeout(Some(limits.wait))
    };
    prepare(&stream).map_err(failed("prepare the connection to"))?;
    wire::greet(&mut stream, token).map_err(failed("greet"))?;
    let agreed = match wire::read_answer(&mut stream, &limits) {
        Ok(Some(agreed)) => agreed,
        Ok(None) => return Err(PathError::Stranger(sink.to_string())),
        // A sink closes without a word on a wrong token.
        Err(error) if is_closed(error.kind()) => {
            return Err(PathError::Stranger(sink.to_string()));
        }
        Err(error) => return Err(failed("await the answer of")(error)),
    };
    let rtt_s = round_trip(&mut stream).map_err(failed("measure the round trip to"))?;
    pour(&mut stream, &agreed).map_err(failed("send to"))?;
    let found = wire::read_report(&mut stream).map_err(failed("read the report of"))?;
    enough(Throughput { rtt_s, ..found })
}

fn is_closed(kind: ErrorKind) -> bool {
    use ErrorKind as K;
    matches!(kind, K::UnexpectedEof | K::ConnectionReset | K::ConnectionAborted | K::BrokenPipe)
}

fn round_trip(stream: &mut TcpStream) -> std::io::Result<f64> {
    let mut times = Vec::with_capacity(PINGS);
    for _ in 0..PINGS {
        let start = Instant::now();
        let mut ping = [1];
        stream.write_all(&ping)?;
        stream.read_exact(&mut ping)?;
        times.push(start.elapsed().as_secs_f64());
    }
    Ok(median(times))
}

/// Sends until a limit is reached.
fn pour(stream: &mut TcpStream, limits: &Limits) -> std::io::Result<()> {
    let block = wire::noise();
    let start = Instant::now();
    let mut left = limits.bytes;
    while left > 0 && start.elapsed() < limits.stream {
        let size = usize::try_from(left).map_or(block.len(), |left| left.min(block.len()));
        let part = block.get(..size).unwrap_or_default();
        match stream.write(part) {
            Ok(0) => break,
            Ok(sent) => left = left.saturating_sub(u64::try_from(sent).unwrap_or(u64::MAX)),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    match stream.shutdown(Shutdown::Write) {
        Err(error) if error.kind() != ErrorKind::NotConnected => Err(error),
        _ => Ok(()),
    }
}
