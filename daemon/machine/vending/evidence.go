package vending

import "yaoju/protocol"

// proof is what a report proves.
type proof uint8

const (
	proofMoving  proof = 1 // motion goes on
	proofTurned  proof = 2 // a full turn, and a drop if the drop sensor watched
	proofNoDrop  proof = 3 // over; a drop sensor that watched saw nothing
	proofNoTurn  proof = 4 // over; nothing can have moved
	proofNothing proof = 5 // over; what fell, and whether, nobody can tell
)

// meaning is the one table of dispensing reports. The numbers look decimal on the
// wire: there is no A to F. ok is false for one that no document has.
func meaning(status byte) (p proof, cause protocol.Fault, ok bool) {
	switch status {
	case 0x01, // dispensing
		0x10, 0x11, // elevator goes up, goes down
		0x14, 0x16, 0x18, 0x19, 0x22, 0x23, 0x26: // microwave: doors move, box goes in, is heated
		return proofMoving, 0, true
	case 0x02, 0x24: // success; and the same out of a microwave
		return proofTurned, 0, true
	case 0x03: // jammed, or no drop detected: boards do not tell these apart
		return proofNoDrop, protocol.FaultNoDrop, true
	case 0x04: // the motor does not stop normally: it may have let go of any number
		return proofNothing, protocol.FaultRunaway, true
	case 0x06:
		return proofNoTurn, protocol.FaultNoMotor, true
	case 0x07, 0x12, 0x13: // elevator failed, going up, going down: the piece may lie in it
		return proofNothing, protocol.FaultElevator, true
	case 0x15, 0x17, 0x20, 0x21, 0x25, 0x28, 0x29, 0x30, 0x31, 0x32: // microwave: doors, no box, pusher, elevator at its door
		return proofNothing, protocol.FaultMicrowave, true
	case 0xFF: // terminated, before or after whatever moved
		return proofNothing, protocol.FaultInterrupted, true
	}
	return 0, 0, false
}

// judge is the one place where a report that ends a vend becomes an outcome.
//
// Dispensed needs a drop that was seen. Without a drop sensor even success is
// Unknown: counting it would take the entitlement of somebody who got nothing,
// and keeping it would give a second box to whoever got one. So a person decides,
// and a machine that is to serve needs the sensor.
func judge(p proof, cause protocol.Fault, dropSensor bool) protocol.Result {
	switch {
	case p == proofTurned && dropSensor:
		return protocol.Result{Outcome: protocol.Dispensed, Pieces: 1}
	case p == proofNoDrop && dropSensor, p == proofNoTurn:
		return protocol.Result{Outcome: protocol.Kept, Cause: cause}
	case cause == 0:
		cause = protocol.FaultUnknownVend
	}
	return protocol.Result{Outcome: protocol.Unknown, Cause: cause}
}

// refusal is why a selection is not to be driven, from the board's answer to a
// check; 0 is no reason. Out of stock is none: that is the board's own count, and
// stock is the ledger's.
func refusal(status byte) protocol.Fault {
	switch status {
	case 0x03: // there is no such selection
		return protocol.FaultNoMotor
	case 0x04:
		return protocol.FaultPaused
	case 0x05, 0x12, 0x13, 0x15: // a product in the elevator; in the microwave: none seen, being heated, to be taken
		return protocol.FaultNotTaken
	case 0x06:
		return protocol.FaultHatch
	case 0x07, 0x08:
		return protocol.FaultElevator
	case 0x09, 0x10, 0x11, 0x14, 0x16, 0x19, 0x20, 0x21, 0x22, 0x23: // microwave: doors, pusher, elevator at its door
		return protocol.FaultMicrowave
	case 0x17, 0x18: // main motor, cross motor: they carry what falls
		return protocol.FaultElevator
	}
	return 0
}

// liftFault is what stands in the way, from the elevator's condition; 0 is nothing.
func liftFault(status byte) protocol.Fault {
	switch status {
	case 0x00:
		return 0
	case 0x01:
		return protocol.FaultNotTaken
	case 0x02:
		return protocol.FaultHatch
	}
	return protocol.FaultElevator // 03 error, 04 self-test; and whatever a newer board adds
}
