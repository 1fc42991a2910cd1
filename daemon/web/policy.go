package web

import (
	"html/template"
	"strconv"

	"yaoju/protocol"
)

// fact is one of the short lines on the waiting screen.
type fact struct {
	Icon, Words template.HTML
}

// Facts says who may take how much, out of the policy in force, so that the
// screen cannot say anything else than the machine does.
func (s scene) Facts() []fact {
	var facts []fact
	for _, t := range s.quota() {
		facts = append(facts, fact{s.Icon("cal"), t})
	}
	switch p := s.Place.Policy; {
	case p.AgeTo > 0:
		facts = append(facts, fact{s.Icon("user"), s.T("attract.age.range")})
	case p.AgeFrom > 0:
		facts = append(facts, fact{s.Icon("user"), s.T("attract.age")})
	}
	return append(facts, fact{s.Icon("eyeoff"), s.T("attract.private")})
}

// quota is at most two lines: there is no room for more. Rules for a class of
// products are not told in detail, because the waiting screen names no product.
func (s scene) quota() []template.HTML {
	var all []template.HTML // rules that count every product
	for _, r := range s.Place.Policy.Rules {
		if r.Class == "" {
			all = append(all, s.rule(r))
		}
	}
	switch rules := len(s.Place.Policy.Rules); {
	case rules == 0:
		return nil
	case len(all) == 0:
		return []template.HTML{s.T("attract.limits")}
	case rules == len(all) && rules <= 2:
		return all
	}
	return []template.HTML{all[0], s.T("attract.also")}
}

func (s scene) rule(r protocol.Rule) template.HTML {
	amount := s.boxes(r.Max)
	if r.Units {
		amount = s.items(r.Max)
	}
	s = s.with("boxes", amount).with("days", strconv.Itoa(r.Days))
	switch r.Per {
	case protocol.PerMonth:
		return s.T("attract.month")
	case protocol.PerYear:
		return s.T("attract.year")
	}
	return s.N("attract.days", r.Days)
}

// AgeKey is the title of the age screen: with or without an upper age.
func (s scene) AgeKey() string {
	if s.Place.Policy.AgeTo > 0 {
		return "age.title.range"
	}
	return "age.title"
}
