package protocol

import (
	"fmt"
	"strings"
)

// EventsTopic carries records up.
func EventsTopic(m MachineID) string { return "yaoju/1/m/" + string(m) + "/events" }

// StateTopic carries the machine's snapshot up, retained.
func StateTopic(m MachineID) string { return "yaoju/1/m/" + string(m) + "/state" }

// OnlineTopic says whether the machine is connected, retained.
func OnlineTopic(m MachineID) string { return "yaoju/1/m/" + string(m) + "/online" }

// AckTopic carries the district's acknowledgement down, retained as a hint.
func AckTopic(m MachineID) string { return "yaoju/1/d/" + string(m) + "/ack" }

// DesiredTopic carries the signed desired state down, retained.
func DesiredTopic(m MachineID) string { return "yaoju/1/d/" + string(m) + "/desired" }

// KeysTopic carries the chain of lists of signing keys down, retained.
func KeysTopic(m MachineID) string { return "yaoju/1/d/" + string(m) + "/keys" }

// CommandTopic carries signed commands down, not retained.
func CommandTopic(m MachineID) string { return "yaoju/1/d/" + string(m) + "/command" }

// Filters of everything machines say, for the district.
const (
	AllEvents = "yaoju/1/m/+/events"
	AllStates = "yaoju/1/m/+/state"
	AllOnline = "yaoju/1/m/+/online"
)

// TopicMachine returns the machine a topic belongs to and its last part, such as
// "events".
func TopicMachine(topic string) (m MachineID, leaf string, err error) {
	p := strings.Split(topic, "/")
	if len(p) != 5 || p[0] != "yaoju" || p[1] != "1" || p[2] != "m" && p[2] != "d" {
		return "", "", fmt.Errorf("topic %q: not one of ours", clip(topic))
	}
	m = MachineID(p[3])
	if err := m.Valid(); err != nil {
		return "", "", fmt.Errorf("topic %q: %w", clip(topic), err)
	}
	return m, p[4], nil
}
