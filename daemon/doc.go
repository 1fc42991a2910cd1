// Package daemon is only a map; the programs are in the packages below it.
//
//	card ──scan──▶ kiosk ──order──▶ dispense ──reserve, settle──▶ ledger ──▶ event chain
//	web ──tap───▶   │                  │ vend(id, slot), outcome              │ records since the acked seq
//	                ▼                  ▼                                       ▼
//	              screen            machine ══frames══ firmware            uplink ══MQTT══ district ──▶ store ──▶ console
//	                                                                            ▲ ack(ledger, seq), desired state, commands
//
// One vend id, minted by the ledger before anything moves, names the same event
// in the motor board's memory, the event chain and the district's tables.
//
// Imports point down only; deps_test.go holds the table of who may import whom
// and which package alone may use each third-party library.
package daemon
