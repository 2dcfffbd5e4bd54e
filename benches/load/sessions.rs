//! What devices do: connect, report twice, disconnect, and so on for ever.

/// One event of a device.
pub(crate) enum Happening {
    Connected { at_ms: i64 },
    ReportedBinding { at_ms: i64, id: String },
    Disconnected { began_ms: i64, at_ms: i64 },
}

/// Events of some devices in turn.
pub(crate) struct Sessions {
    devices: Vec<u32>,
    /// Which of the four, and of whom.
    turn: u64,
    since_ms: i64,
}

/// Connect, report, report, disconnect.
const STEPS: u64 = 4;

impl Sessions {
    pub(crate) fn new(devices: Vec<u32>, since_ms: i64) -> Self {
        Self { devices, turn: 0, since_ms }
    }

    /// The next event and the number of its device. Devices take turns, so that a batch is about many.
    pub(crate) fn next(&mut self) -> (u32, Happening) {
        let devices = self.devices.len() as u64;
        let (round, device) = (self.turn / devices, self.turn % devices);
        self.turn += 1;
        let number = self.devices[usize::try_from(device).expect("an index")];
        let at_ms = self.since_ms + i64::try_from(round).expect("less than centuries");
        let began_ms = at_ms - i64::try_from(round % STEPS).expect("less than four");
        let happening = match round % STEPS {
            0 => Happening::Connected { at_ms },
            1 | 2 => {
                Happening::ReportedBinding { at_ms, id: format!("0006{at_ms:016X}{number:012X}") }
            }
            _ => Happening::Disconnected { began_ms, at_ms },
        };
        (number, happening)
    }
}
