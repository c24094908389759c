package why

import (
	"encoding/json"
	"fmt"
	"strconv"
	"strings"
)

// Line reads a line of a proxy's log ("access denied") or access log, JSON or text, as the question that it answers. What
// kubectl logs puts before it, a time or the name of a pod, does not matter. Headers are in no log.
func Line(line string) (Question, error) {
	fields, isJSON := jsonFields(line)
	if !isJSON {
		fields = textFields(line)
	}
	q := Question{From: fields["from"], To: fields["to"], Method: fields["method"], Path: fields["path"], Protocol: fields["protocol"], Enforced: true}
	if q.To == "" && fields["service"] != "" { // of the access log
		q.To = fields["service"] + "." + fields["namespace"]
		q.From = fields["source_namespace"] + "/" + fields["source_pod"]
		q.Protocol = "http"
	}
	if q.From == "nobody known" || q.From == "/" {
		q.From = "-"
	}
	if q.From == "" || q.To == "" {
		return q, question("the line does not say who called what: want one with a reason of access control")
	}
	port, err := strconv.ParseUint(fields["port"], 10, 16)
	if err != nil {
		return q, question("the line does not name the port")
	}
	q.Port = uint32(port)
	return q, nil
}

// jsonFields reads the object that a line ends in.
func jsonFields(line string) (map[string]string, bool) {
	begin := strings.IndexByte(line, '{')
	if begin < 0 {
		return nil, false
	}
	var raw map[string]any
	d := json.NewDecoder(strings.NewReader(line[begin:]))
	d.UseNumber()
	if d.Decode(&raw) != nil {
		return nil, false // such as a path with a brace, in a line of text
	}
	fields := map[string]string{}
	for k, v := range raw {
		fields[k] = fmt.Sprint(v)
	}
	return fields, true
}

// textFields reads key=value pairs as slog writes them.
func textFields(line string) map[string]string {
	fields := map[string]string{}
	for line != "" {
		key, rest, ok := strings.Cut(line, "=")
		if !ok {
			break
		}
		key = key[strings.LastIndexByte(key, ' ')+1:]
		value := rest
		if quoted, err := strconv.QuotedPrefix(rest); err == nil {
			value, _ = strconv.Unquote(quoted) // it was just recognised
			rest = rest[len(quoted):]
		} else {
			value, rest, _ = strings.Cut(value, " ")
		}
		fields[key] = value
		line = strings.TrimPrefix(rest, " ")
	}
	return fields
}
