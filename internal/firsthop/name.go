package firsthop

import (
	"net/netip"
	"strings"

	"github.com/miekg/dns"
)

// Label before a mesh zone makes the name whose TXT record says which proxy answers and which address it sees the
// question come from. No namespace can be called like that.
const Label = "_whoami"

const (
	podKey    = "pod="
	clientKey = "client="
)

// Texts are the strings of the TXT record.
func Texts(pod string, client netip.Addr) []string {
	return []string{podKey + pod, clientKey + client.String()}
}

// read takes the record out of an answer. ok is false if there is none.
func read(m *dns.Msg) (pod, client string, ok bool) {
	for _, rr := range m.Answer {
		txt, is := rr.(*dns.TXT)
		if !is || len(txt.Txt) != 2 {
			continue
		}
		pod, isPod := strings.CutPrefix(txt.Txt[0], podKey)
		client, isClient := strings.CutPrefix(txt.Txt[1], clientKey)
		if isPod && isClient {
			return pod, client, true
		}
	}
	return "", "", false
}
