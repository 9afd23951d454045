// What Ollama does with a Modelfile's TEMPLATE, on Go's own text/template; a line of JSON in, a line of JSON out.
//
// It stands here because Ollama itself cannot be installed where the tests run. Facts from ollama/ollama, parser/parser.go
// and template/template.go of 2026: what strconv.IsPrint does not print is dropped from a Modelfile, but for blanks and
// line breaks inside quotes; a quoted value ends at the first blank or line break behind a closing quote; neighbouring
// messages of one role become one; .System joins the system messages; there is no function but json.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"text/template"
)

type message struct {
	Role    string
	Content string
}

type question struct {
	Modelfile string
	Messages  []message
}

type answer struct {
	Text     string
	From     string
	Stops    []string
	Fault    string
	Commands int
}

func main() {
	lines := bufio.NewReader(os.Stdin)
	for {
		line, err := lines.ReadBytes('\n')
		if err != nil {
			return
		}
		var asked question
		var given answer
		if err := json.Unmarshal(line, &asked); err != nil {
			given.Fault = err.Error()
		} else {
			given = answered(asked)
		}
		out, _ := json.Marshal(given)
		fmt.Println(string(out))
	}
}

func answered(asked question) answer {
	var given answer
	var source string
	for _, command := range commands(asked.Modelfile) {
		given.Commands++
		name, value, _ := strings.Cut(command, " ")
		switch name {
		case "FROM":
			given.From = value
		case "TEMPLATE":
			source = unquoted(value)
		case "PARAMETER":
			key, one, _ := strings.Cut(value, " ")
			switch key {
			case "stop":
				given.Stops = append(given.Stops, unquoted(one))
			case "temperature", "repeat_penalty", "top_p", "top_k": // what an answer is, not how it is asked
			default:
				given.Fault = "parameter " + key
			}
		default:
			given.Fault = "command " + name
		}
	}
	functions := template.FuncMap{"json": func(v any) string { b, _ := json.Marshal(v); return string(b) }}
	made, err := template.New("").Option("missingkey=zero").Funcs(functions).Parse(source)
	if err != nil {
		given.Fault = err.Error()
		return given
	}
	system, messages := gathered(asked.Messages)
	var text strings.Builder
	err = made.Execute(&text, map[string]any{"System": system, "Messages": messages, "Response": "", "Think": false})
	if err != nil {
		given.Fault = err.Error()
	}
	given.Text = text.String()
	return given
}

// commands cuts a Modelfile where a value has ended: a quoted one at a blank or line break, another at a line break.
func commands(file string) []string {
	var found []string
	command := ""
	for _, r := range file + "\n" {
		isBreak := r == '\n' || r == '\r'
		isBlank := isBreak || r == ' ' || r == '\t'
		value := strings.TrimSpace(valueOf(command))
		switch {
		case isBreak && (command == "" || command[0] == '#'), isBlank && value != "" && isWhole(value) && (isBreak || quote(value) != ""):
			if command != "" && command[0] != '#' {
				found = append(found, strings.TrimSpace(command))
			}
			command = ""
		case command == "" && isBlank:
		case isBlank || strconv.IsPrint(r):
			command += string(r)
		}
	}
	if command != "" {
		found = append(found, "UNFINISHED "+command)
	}
	return found
}

func valueOf(command string) string {
	_, value, _ := strings.Cut(command, " ")
	if strings.HasPrefix(command, "PARAMETER ") {
		_, value, _ = strings.Cut(value, " ")
	}
	return value
}

func quote(value string) string {
	for _, mark := range []string{`"""`, `"`} {
		if strings.HasPrefix(value, mark) {
			return mark
		}
	}
	return ""
}

func isWhole(value string) bool {
	mark := quote(value)
	return mark == "" || len(value) >= 2*len(mark) && strings.HasSuffix(value, mark)
}

func unquoted(value string) string {
	if mark := quote(value); mark != "" && isWhole(value) {
		return value[len(mark) : len(value)-len(mark)]
	}
	return value
}

func gathered(messages []message) (string, []*message) {
	var system []string
	var kept []*message
	for i := range messages {
		one := &messages[i]
		if one.Role == "system" {
			system = append(system, one.Content)
		}
		if n := len(kept); n > 0 && kept[n-1].Role == one.Role {
			kept[n-1].Content += "\n\n" + one.Content
		} else {
			kept = append(kept, one)
		}
	}
	return strings.Join(system, "\n\n"), kept
}
